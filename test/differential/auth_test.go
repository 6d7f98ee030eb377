package differential

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// sendAuth sends what is about users, roles and the cluster.
func (s *side) sendAuth(ctx context.Context, m proto.Message) (resp proto.Message, err error, ok bool) {
	switch m := m.(type) {
	case *pb.AuthEnableRequest:
		resp, err = s.auth.AuthEnable(ctx, m)
	case *pb.AuthDisableRequest:
		resp, err = s.auth.AuthDisable(ctx, m)
	case *pb.AuthStatusRequest:
		resp, err = s.auth.AuthStatus(ctx, m)
	case *pb.AuthenticateRequest:
		var r *pb.AuthenticateResponse
		if r, err = s.auth.Authenticate(ctx, m); err == nil {
			s.tokens[m.Name], r.Token = r.Token, ""
		}
		resp = r
	case *pb.AuthUserAddRequest:
		resp, err = s.auth.UserAdd(ctx, m)
	case *pb.AuthUserDeleteRequest:
		resp, err = s.auth.UserDelete(ctx, m)
	case *pb.AuthUserChangePasswordRequest:
		resp, err = s.auth.UserChangePassword(ctx, m)
	case *pb.AuthUserGrantRoleRequest:
		resp, err = s.auth.UserGrantRole(ctx, m)
	case *pb.AuthUserRevokeRoleRequest:
		resp, err = s.auth.UserRevokeRole(ctx, m)
	case *pb.AuthUserGetRequest:
		resp, err = s.auth.UserGet(ctx, m)
	case *pb.AuthUserListRequest:
		resp, err = s.auth.UserList(ctx, m)
	case *pb.AuthRoleAddRequest:
		resp, err = s.auth.RoleAdd(ctx, m)
	case *pb.AuthRoleDeleteRequest:
		resp, err = s.auth.RoleDelete(ctx, m)
	case *pb.AuthRoleGrantPermissionRequest:
		resp, err = s.auth.RoleGrantPermission(ctx, m)
	case *pb.AuthRoleRevokePermissionRequest:
		resp, err = s.auth.RoleRevokePermission(ctx, m)
	case *pb.AuthRoleGetRequest:
		resp, err = s.auth.RoleGet(ctx, m)
	case *pb.AuthRoleListRequest:
		resp, err = s.auth.RoleList(ctx, m)
	// Of what follows only the errors are compared.
	case *pb.StatusRequest:
		_, err = s.maint.Status(ctx, m)
		resp = &pb.StatusResponse{}
	case *pb.MemberListRequest:
		_, err = s.group.MemberList(ctx, m)
		resp = &pb.MemberListResponse{}
	case *pb.HashRequest:
		_, err = s.maint.Hash(ctx, m)
		resp = &pb.HashResponse{}
	case *pb.WatchCreateRequest:
		resp, err = s.firstOfWatch(ctx, m)
	case *pb.LeaseKeepAliveRequest:
		resp, err = s.renew(ctx, m)
	default:
		return nil, nil, false
	}
	return resp, err, true
}

// firstOfWatch returns what a watch is first told.
func (s *side) firstOfWatch(ctx context.Context, m *pb.WatchCreateRequest) (proto.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.watch.Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: m}}); err != nil {
		return nil, err
	}
	return w.Recv()
}

func (s *side) renew(ctx context.Context, m *pb.LeaseKeepAliveRequest) (proto.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k, err := s.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.Send(m); err != nil {
		return nil, err
	}
	return k.Recv()
}

// authCallOf makes a call of a request about users and roles.
func authCallOf(r *pb.InternalRaftRequest) proto.Message {
	for _, m := range []proto.Message{
		r.AuthEnable, r.AuthDisable, r.AuthStatus, r.AuthUserAdd, r.AuthUserDelete, r.AuthUserChangePassword, r.AuthUserGrantRole,
		r.AuthUserRevokeRole, r.AuthUserGet, r.AuthUserList, r.AuthRoleAdd, r.AuthRoleDelete, r.AuthRoleGrantPermission,
		r.AuthRoleRevokePermission, r.AuthRoleGet, r.AuthRoleList,
	} {
		if m.ProtoReflect().IsValid() {
			return m
		}
	}
	panic("no request about users and roles")
}

// straighten turns ranges around that end before they begin. Whether an empty range may be read depends in etcd on the
// shape of its tree of permissions.
func straighten(m proto.Message) {
	turn := func(key, end *[]byte) {
		if len(*end) != 0 && !bytes.Equal(*end, []byte{0}) && bytes.Compare(*key, *end) >= 0 {
			*key, *end = *end, *key
			if bytes.Equal(*key, *end) {
				*end = nil
			}
		}
	}
	switch r := m.(type) {
	case *pb.RangeRequest:
		turn(&r.Key, &r.RangeEnd)
	case *pb.DeleteRangeRequest:
		turn(&r.Key, &r.RangeEnd)
	case *pb.WatchCreateRequest:
		turn(&r.Key, &r.RangeEnd)
	case *pb.TxnRequest:
		for _, c := range r.Compare {
			turn(&c.Key, &c.RangeEnd)
		}
		for _, op := range slices.Concat(r.Success, r.Failure) {
			switch {
			case op.GetRequestRange() != nil:
				straighten(op.GetRequestRange())
			case op.GetRequestDeleteRange() != nil:
				straighten(op.GetRequestDeleteRange())
			case op.GetRequestTxn() != nil:
				straighten(op.GetRequestTxn())
			}
		}
	}
}

// guardedSequence asks both sides the same on behalf of users who come and go. It counts the errors that both gave.
func guardedSequence(ctx context.Context, a, b *side, g *requests.Generator, steps int, errs map[string]int) error {
	s := &sequencer{a: a, b: b, g: g, revision: 1, compactions: make(map[int64]bool), transactions: make(map[int64]bool)}
	rng := g.Rand()
	// Logins that have failed in a row. Coffer makes who tries on wait.
	failed := make(map[string]int)
	const freeFailures = 3
	unknown := "" // who asked and was not known, and logs in next
	for step := range steps {
		if rng.IntN(400) == 0 {
			a.restart()
			b.restart() // and all are logged out
			s.restarted = s.revision
			clear(failed)
		}
		r := s.nextGuarded()
		if unknown != "" {
			r, unknown = request{message: &pb.AuthenticateRequest{Name: unknown, Password: g.Password()}}, ""
		}
		login, _ := r.message.(*pb.AuthenticateRequest)
		if login != nil && failed[login.Name] == freeFailures {
			continue
		}
		if c, ok := r.message.(*pb.CompactionRequest); ok {
			for s.transactions[c.Revision] {
				c.Revision--
			}
		}
		if h, ok := r.message.(*pb.HashKVRequest); ok && h.Revision <= s.restarted && s.compactions[h.Revision] {
			continue
		}
		left, right := ask(ctx, s.a, r), ask(ctx, s.b, r)
		if !left.equal(right) {
			return fmt.Errorf("step %d: %v\n%s: %v\n%s: %v", step, r, s.a.name, left, s.b.name, right)
		}
		if left.err != nil {
			errs[status.Convert(left.err).Message()]++
			switch rpctypes.Error(left.err) {
			case rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision:
				unknown = r.user
			}
		}
		if login != nil {
			if failed[login.Name]++; left.err == nil {
				failed[login.Name] = 0
			}
		}
		s.note(r, left)
	}
	return nil
}

func (s *sequencer) nextGuarded() request {
	g, rng := s.g, s.g.Rand()
	r := request{user: g.User()}
	if rng.IntN(3) == 0 {
		r.user = "root"
	}
	switch n := rng.IntN(100); {
	case n < 10:
		login := &pb.AuthenticateRequest{Name: g.User(), Password: g.Password()}
		if rng.IntN(20) == 0 {
			login.Password = "wrong"
		}
		r.message = login
	case n < 35:
		r.message = authCallOf(g.Auth())
		if rng.IntN(4) > 0 {
			r.user = "root"
		}
	case n < 38:
		key, end := g.Keys()
		r.message = &pb.WatchCreateRequest{Key: key, RangeEnd: end}
	case n < 41:
		r.message = &pb.LeaseKeepAliveRequest{ID: rng.Int64N(7)}
	case n < 43:
		r.message = []proto.Message{&pb.StatusRequest{}, &pb.MemberListRequest{Linearizable: true}, &pb.HashRequest{}}[rng.IntN(3)]
	default:
		k := next(g)
		if _, ok := k.message.(*pb.AlarmRequest); ok {
			// One that is raised would hold until root is there to end it.
			k.message = alarm(int(pb.AlarmRequest_GET), pb.AlarmType_NONE)
		}
		r.message, r.stream = k.message, k.stream
	}
	straighten(r.message)
	return r
}

func TestCofferLetsUsersDoWhatEtcdLetsThem(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "jwt.key")
	if err := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tokens := range map[string]string{"simple": "simple", "jwt": "jwt,sign-method=ES256,ttl=1h,priv-key=" + private} {
		t.Run(name, func(t *testing.T) {
			histories(t, 4000, func(t *testing.T, seed uint64, n int) error {
				etcd := startEtcd(t, func(c *embed.Config) { c.AuthToken, c.BcryptCost = tokens, 4 })
				coffer := startCoffer(t, "--auth-token="+tokens, "--bcrypt-cost=4")
				errs := make(map[string]int)
				err := guardedSequence(t.Context(), etcd, coffer, requests.New(seed), n, errs)
				t.Log(errs)
				for _, want := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthFailed} {
					if errs[status.Convert(want).Message()] == 0 {
						t.Errorf("no request was ever refused because of %v", want)
					}
				}
				return err
			})
		})
	}
}
