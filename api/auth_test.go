package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/cofferpb"
)

func TestAuthenticationIsOffAtFirstAndThereAreNoUsers(t *testing.T) {
	m := startMember(t)
	auth, ctx := pb.NewAuthClient(m.conn), soon(t)
	st, err := auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
	must(t, err)
	if st.Enabled || st.AuthRevision != 1 {
		t.Errorf("status %v", st)
	}
	must(t, errOf(auth.AuthDisable(ctx, &pb.AuthDisableRequest{})))
	users, err := auth.UserList(ctx, &pb.AuthUserListRequest{})
	must(t, err)
	roles, err := auth.RoleList(ctx, &pb.AuthRoleListRequest{})
	must(t, err)
	if len(users.Users) != 0 || len(roles.Roles) != 0 {
		t.Errorf("users %v, roles %v", users, roles)
	}
	for _, c := range []struct {
		name string
		got  error
		want error
	}{
		{"enable", errOf(auth.AuthEnable(ctx, &pb.AuthEnableRequest{})), rpctypes.ErrGRPCRootUserNotExist},
		{"authenticate", errOf(auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "u"})), rpctypes.ErrGRPCAuthNotEnabled},
		{"get a user", errOf(auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"delete a user", errOf(auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"change a password", errOf(auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"grant a role", errOf(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"revoke a role", errOf(auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"get a role", errOf(auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"delete a role", errOf(auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"grant no permission", errOf(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r"})), rpctypes.ErrGRPCPermissionNotGiven},
		{"revoke a permission", errOf(auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"add a user without a name", errOf(auth.UserAdd(ctx, &pb.AuthUserAddRequest{})), rpctypes.ErrGRPCUserEmpty},
		{"add a role without a name", errOf(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{})), rpctypes.ErrGRPCRoleEmpty},
	} {
		want := status.Convert(c.want)
		if got := status.Convert(c.got); got.Code() != want.Code() || got.Message() != want.Message() {
			t.Errorf("%s: got %v %q, want %v %q", c.name, got.Code(), got.Message(), want.Code(), want.Message())
		}
	}
}

// tokenOfUser logs a user in.
func (m *member) tokenOfUser(t testing.TB, name string) string {
	t.Helper()
	resp, err := pb.NewAuthClient(m.conn).Authenticate(soon(t), &pb.AuthenticateRequest{Name: name, Password: "pw-" + name})
	must(t, err)
	return resp.Token
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// cheapPasswords keeps tests from waiting for bcrypt.
func cheapPasswords(o *memberOptions) { o.api.BcryptCost = 4 }

// startGuarded starts a member with authentication on: root, and alice, who may read and write a..c and read r, but not write.
func startGuarded(t testing.TB, vary ...func(*memberOptions)) *member {
	t.Helper()
	m := startMember(t, append([]func(*memberOptions){cheapPasswords}, vary...)...)
	ac, ctx := pb.NewAuthClient(m.conn), soon(t)
	for _, name := range []string{"root", "alice"} {
		must(t, errOf(ac.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: "pw-" + name})))
	}
	must(t, errOf(ac.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "ab"})))
	for _, p := range []*authpb.Permission{
		{PermType: authpb.Permission_READWRITE, Key: []byte("a"), RangeEnd: []byte("c")},
		{PermType: authpb.Permission_READ, Key: []byte("r")},
		{PermType: authpb.Permission_WRITE, Key: []byte("w")},
	} {
		must(t, errOf(ac.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "ab", Perm: p})))
	}
	must(t, errOf(ac.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})))
	must(t, errOf(ac.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "ab"})))
	must(t, errOf(ac.AuthEnable(ctx, &pb.AuthEnableRequest{})))
	return m
}

// everyMethod calls every method that is about the state or the cluster. It returns their errors by name.
func everyMethod(m *member, ctx context.Context) map[string]error {
	kv, leases, mt, cl, ac := pb.NewKVClient(m.conn), pb.NewLeaseClient(m.conn), pb.NewMaintenanceClient(m.conn), pb.NewClusterClient(m.conn), pb.NewAuthClient(m.conn)
	keys := cofferpb.NewKeysClient(m.conn)
	key := []byte("secret")
	putOf := func(r *pb.PutRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	}
	rangeStream := func() error {
		s, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: key})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	snapshot := func() error {
		s, err := mt.Snapshot(ctx, &pb.SnapshotRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	keepAlive := func() error {
		s, err := leases.LeaseKeepAlive(ctx)
		if err == nil {
			_ = s.Send(&pb.LeaseKeepAliveRequest{ID: 77}) // if it fails, Recv says why
			_, err = s.Recv()
		}
		return err
	}
	return map[string]error{
		"Range":              errOf(kv.Range(ctx, &pb.RangeRequest{Key: key})),
		"RangeSerializable":  errOf(kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true})),
		"RangeStream":        rangeStream(),
		"Put":                errOf(kv.Put(ctx, &pb.PutRequest{Key: key})),
		"DeleteRange":        errOf(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})),
		"Txn":                errOf(kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOf(&pb.PutRequest{Key: key})}})),
		"Compact":            errOf(kv.Compact(ctx, &pb.CompactionRequest{Revision: 1})),
		"LeaseGrant":         errOf(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100})),
		"LeaseRevoke":        errOf(leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 77})),
		"LeaseKeepAlive":     keepAlive(),
		"LeaseTimeToLive":    errOf(leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 77})),
		"LeaseLeases":        errOf(leases.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})),
		"Alarm":              errOf(mt.Alarm(ctx, &pb.AlarmRequest{})),
		"AlarmDisarm":        errOf(mt.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE})),
		"Status":             errOf(mt.Status(ctx, &pb.StatusRequest{})),
		"Defragment":         errOf(mt.Defragment(ctx, &pb.DefragmentRequest{})),
		"Hash":               errOf(mt.Hash(ctx, &pb.HashRequest{})),
		"HashKV":             errOf(mt.HashKV(ctx, &pb.HashKVRequest{})),
		"Snapshot":           snapshot(),
		"MoveLeader":         errOf(mt.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 1})),
		"Downgrade":          errOf(mt.Downgrade(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})),
		"MemberAdd":          errOf(cl.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{testPeerURL}})),
		"MemberRemove":       errOf(cl.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1})),
		"MemberUpdate":       errOf(cl.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{testPeerURL}})),
		"MemberPromote":      errOf(cl.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 1})),
		"MemberList":         errOf(cl.MemberList(ctx, &pb.MemberListRequest{})),
		"AuthStatus":         errOf(ac.AuthStatus(ctx, &pb.AuthStatusRequest{})),
		"AuthEnable":         errOf(ac.AuthEnable(ctx, &pb.AuthEnableRequest{})),
		"UserAdd":            errOf(ac.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "x", Password: "x"})),
		"UserChangePassword": errOf(ac.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "x", Password: "x"})),
		"UserDelete":         errOf(ac.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "x"})),
		"UserGet":            errOf(ac.UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"})),
		"UserList":           errOf(ac.UserList(ctx, &pb.AuthUserListRequest{})),
		"UserGrantRole":      errOf(ac.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "x", Role: "x"})),
		"UserRevokeRole":     errOf(ac.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "x", Role: "x"})),
		"RoleAdd":            errOf(ac.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "x"})),
		"RoleDelete":         errOf(ac.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "x"})),
		"RoleGet":            errOf(ac.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "x"})),
		"RoleList":           errOf(ac.RoleList(ctx, &pb.AuthRoleListRequest{})),
		"RoleGrant":          errOf(ac.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "x", Perm: &authpb.Permission{Key: key}})),
		"RoleRevoke":         errOf(ac.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "x", Key: key})),
		"AuthDisable":        errOf(ac.AuthDisable(ctx, &pb.AuthDisableRequest{})),
		"Keys.List":          errOf(keys.List(ctx, &cofferpb.ListRequest{})),
		"Keys.Rotate":        errOf(keys.Rotate(ctx, &cofferpb.RotateRequest{})),
		"Member.Status":      errOf(cofferpb.NewMemberClient(m.conn).Status(ctx, &cofferpb.StatusRequest{})),
	}
}

func TestWithoutPermissionNothingCanBeDone(t *testing.T) {
	m := startGuarded(t)
	for _, c := range []struct {
		who  string
		ctx  context.Context
		want error
		// may are the methods that whoever this is may use.
		may []string
	}{
		{"nobody", soon(t), rpctypes.ErrGRPCUserEmpty, []string{"AuthStatus"}},
		{"a stranger", withToken(soon(t), "abcdefghijklmnop.5"), rpctypes.ErrGRPCInvalidAuthToken, nil},
		{"one who has a token of the future", withToken(soon(t), "abcdefghijklmnop.9999999"), rpctypes.ErrGRPCInvalidAuthToken, nil},
		{"alice", withToken(soon(t), m.tokenOfUser(t, "alice")), rpctypes.ErrGRPCPermissionDenied,
			[]string{"LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases", "Alarm", "Status", "MemberList", "AuthStatus"}},
	} {
		for name, err := range everyMethod(m, c.ctx) {
			got := status.Convert(err)
			if slices.Contains(c.may, name) {
				if got.Code() == status.Code(c.want) && got.Message() == status.Convert(c.want).Message() {
					t.Errorf("%s by %s: %v", name, c.who, err)
				}
			} else if want := status.Convert(c.want); got.Code() != want.Code() || got.Message() != want.Message() {
				t.Errorf("%s by %s: got %v, want %v", name, c.who, err, want)
			}
		}
	}
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	for name, err := range everyMethod(m, root) {
		if code := status.Code(err); code == codes.PermissionDenied || code == codes.Unauthenticated {
			t.Errorf("%s by root: %v", name, err)
		}
	}
}

func TestAUserHasWhatItsRolesAllow(t *testing.T) {
	m := startGuarded(t)
	alice := withToken(soon(t), m.tokenOfUser(t, "alice"))
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	kv, leases := pb.NewKVClient(m.conn), pb.NewLeaseClient(m.conn)
	denied := status.Convert(rpctypes.ErrGRPCPermissionDenied).Message()
	put := func(key string, lease int64, prev bool) error {
		return errOf(kv.Put(alice, &pb.PutRequest{Key: []byte(key), Lease: lease, PrevKv: prev}))
	}
	must(t, errOf(leases.LeaseGrant(root, &pb.LeaseGrantRequest{ID: 5, TTL: 100})))
	must(t, errOf(leases.LeaseGrant(root, &pb.LeaseGrantRequest{ID: 6, TTL: 100})))
	must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("z"), Lease: 5})))
	must(t, put("a", 6, true))
	for _, c := range []struct {
		name    string
		err     error
		allowed bool
	}{
		{"put", put("b", 0, false), true},
		{"put what can only be read", put("r", 0, false), false},
		{"put what can only be written", put("w", 0, false), true},
		{"put and see the value before", put("w", 0, true), false},
		{"put with a lease that holds another's key", put("a", 5, false), false},
		{"delete and see the values", errOf(kv.DeleteRange(alice, &pb.DeleteRangeRequest{Key: []byte("w"), PrevKv: true})), false},
		{"delete", errOf(kv.DeleteRange(alice, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c")})), true},
		{"delete more", errOf(kv.DeleteRange(alice, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("d")})), false},
		{"range", errOf(kv.Range(alice, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c")})), true},
		{"range to the end", errOf(kv.Range(alice, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}})), false},
		{"compare", errOf(kv.Txn(alice, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("r")}}})), true},
		{"compare what cannot be read", errOf(kv.Txn(alice, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("w")}}})), false},
		{"a branch that does not run", errOf(kv.Txn(alice, &pb.TxnRequest{Failure: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("w")}}}}})), false},
		{"revoke another's lease", errOf(leases.LeaseRevoke(alice, &pb.LeaseRevokeRequest{ID: 5})), false},
		{"look at another's lease", errOf(leases.LeaseTimeToLive(alice, &pb.LeaseTimeToLiveRequest{ID: 5})), true},
		{"see the keys of another's lease", errOf(leases.LeaseTimeToLive(alice, &pb.LeaseTimeToLiveRequest{ID: 5, Keys: true})), false},
		{"list leases", errOf(leases.LeaseLeases(alice, &pb.LeaseLeasesRequest{})), false},
		{"revoke a lease", errOf(leases.LeaseRevoke(alice, &pb.LeaseRevokeRequest{ID: 6})), true},
	} {
		if got := status.Convert(c.err).Message(); c.allowed && c.err != nil || !c.allowed && got != denied {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	renew, err := leases.LeaseKeepAlive(alice)
	must(t, err)
	must(t, renew.Send(&pb.LeaseKeepAliveRequest{ID: 5}))
	if _, err := renew.Recv(); status.Convert(err).Message() != denied {
		t.Errorf("renewing another's lease: %v", err)
	}
}

func TestWatchesAreRefusedAsTheirRangesAre(t *testing.T) {
	m := startGuarded(t)
	for _, c := range []struct {
		ctx      context.Context
		key, end string
		reason   string
	}{
		{soon(t), "a", "", rpctypes.ErrGRPCUserEmpty.Error()},
		{withToken(soon(t), "nonsense"), "a", "", rpctypes.ErrGRPCInvalidAuthToken.Error()},
		{withToken(soon(t), m.tokenOfUser(t, "alice")), "a", "c", ""},
		{withToken(soon(t), m.tokenOfUser(t, "alice")), "a", "\x00", rpctypes.ErrGRPCPermissionDenied.Error()},
		{withToken(soon(t), m.tokenOfUser(t, "alice")), "", "\x00", rpctypes.ErrGRPCPermissionDenied.Error()},
		{withToken(soon(t), m.tokenOfUser(t, "root")), "", "\x00", ""},
	} {
		w, err := pb.NewWatchClient(m.conn).Watch(c.ctx)
		must(t, err)
		create := &pb.WatchCreateRequest{Key: []byte(c.key), RangeEnd: []byte(c.end)}
		must(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
		resp, err := w.Recv()
		must(t, err)
		if !resp.Created || resp.Canceled != (c.reason != "") || resp.CancelReason != c.reason || c.reason != "" && resp.WatchId != -1 {
			t.Errorf("watch of %q..%q: %v, want %q", c.key, c.end, resp, c.reason)
		}
	}
}

func TestTokensEndWithThePasswordTheUserAndTheLastUse(t *testing.T) {
	m := startGuarded(t)
	ac, kv := pb.NewAuthClient(m.conn), pb.NewKVClient(m.conn)
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	valid := func(token string) bool {
		t.Helper()
		_, err := kv.Range(withToken(soon(t), token), &pb.RangeRequest{Key: []byte("a")})
		if err != nil && status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCInvalidAuthToken).Message() {
			t.Fatal(err)
		}
		return err == nil
	}
	first := m.tokenOfUser(t, "alice")
	if !valid(first) {
		t.Error("a new token is not valid")
	}
	must(t, errOf(ac.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "pw-alice"})))
	second := m.tokenOfUser(t, "alice")
	if valid(first) || !valid(second) {
		t.Error("after the password was changed the old token is valid, or the new one is not")
	}
	must(t, errOf(ac.UserDelete(root, &pb.AuthUserDeleteRequest{Name: "alice"})))
	if valid(second) {
		t.Error("the token of a deleted user is valid")
	}
	if _, err := ac.Authenticate(soon(t), &pb.AuthenticateRequest{Name: "alice", Password: "pw-alice"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a deleted user logs in: %v", err)
	}
	must(t, errOf(ac.AuthDisable(root, &pb.AuthDisableRequest{})))
	must(t, errOf(kv.Range(soon(t), &pb.RangeRequest{Key: []byte("a")})))
	must(t, errOf(ac.AuthEnable(soon(t), &pb.AuthEnableRequest{})))
	if _, err := ac.UserList(root, &pb.AuthUserListRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token has outlived authentication: %v", err)
	}
}

func TestLeasesEndAlthoughAuthenticationIsOn(t *testing.T) {
	m := startGuarded(t)
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	kv := pb.NewKVClient(m.conn)
	must(t, errOf(pb.NewLeaseClient(m.conn).LeaseGrant(root, &pb.LeaseGrantRequest{ID: 9, TTL: 1})))
	must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("z"), Lease: 9})))
	for {
		resp, err := kv.Range(root, &pb.RangeRequest{Key: []byte("z")})
		must(t, err)
		if resp.Count == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Neither a password nor a token is in the log of the process or in the log of the cluster.
func TestNoPasswordAndNoTokenIsLogged(t *testing.T) {
	core, logged := observer.New(zap.DebugLevel)
	m := startGuarded(t, func(o *memberOptions) { o.api.Logger = zap.New(core); o.raft.Logger = zap.New(core) })
	token := m.tokenOfUser(t, "alice")
	ac := pb.NewAuthClient(m.conn)
	_, err := ac.Authenticate(soon(t), &pb.AuthenticateRequest{Name: "alice", Password: "pw-wrong"})
	if status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCAuthFailed).Message() {
		t.Errorf("a wrong password: %v", err)
	}
	_, err = ac.Authenticate(soon(t), &pb.AuthenticateRequest{Name: "pw-alice", Password: "alice"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a wrong user: %v", err)
	}
	must(t, errOf(pb.NewKVClient(m.conn).Range(withToken(soon(t), token), &pb.RangeRequest{Key: []byte("a")})))
	_ = errOf(pb.NewKVClient(m.conn).Range(withToken(soon(t), token+"1"), &pb.RangeRequest{Key: []byte("a")}))
	for _, e := range logged.All() {
		line := fmt.Sprint(e.Message, e.ContextMap())
		if strings.Contains(line, "pw-") || strings.Contains(line, token[:16]) {
			t.Errorf("logged: %s", line)
		}
	}
	last := m.journal.LastIndex()
	for i := m.journal.FirstIndex(); i <= last; i++ {
		entries, err := m.journal.Entries(i, i+1, 1<<30)
		must(t, err)
		for _, e := range entries {
			if bytes.Contains(e.Data, []byte("pw-")) {
				t.Errorf("entry %d has a password", i)
			}
		}
	}
}

// Once a role has been taken from a user, nothing that the user asks for afterwards is done; as long as it has the role,
// nothing is refused. While that changes, a request is done or refused, for one of two reasons.
func TestNoRequestIsDoneAfterItsRoleIsGone(t *testing.T) {
	m := startGuarded(t)
	ac, kv := pb.NewAuthClient(m.conn), pb.NewKVClient(m.conn)
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	alice := withToken(soon(t), m.tokenOfUser(t, "alice"))
	var phase atomic.Int64 // 0: granted, 1: is being revoked, 2: revoked, 3: is being granted, 4: granted...
	var stop atomic.Bool
	var wg sync.WaitGroup
	var certain [2]atomic.Int64 // requests that were certainly to be done, or to be refused
	for i := range 4 {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				before := phase.Load()
				var err error
				switch (n + i) % 3 {
				case 0:
					err = errOf(kv.Put(alice, &pb.PutRequest{Key: []byte("a")}))
				case 1:
					err = errOf(kv.Range(alice, &pb.RangeRequest{Key: []byte("a"), Serializable: n%2 == 0}))
				case 2:
					err = errOf(kv.Txn(alice, &pb.TxnRequest{Success: []*pb.RequestOp{opPut("b")}}))
				}
				text := ""
				if err != nil {
					text = rpctypes.ErrorDesc(err)
				}
				stable := before == phase.Load() && before%2 == 0
				switch {
				case stable && before%4 == 0 && text == "":
					certain[0].Add(1)
				case stable && before%4 == 2 && text == "etcdserver: permission denied":
					certain[1].Add(1)
				case !stable && (text == "" || text == "etcdserver: permission denied" || text == "etcdserver: revision of auth store is old"):
				default:
					t.Errorf("in phase %d (still: %v): %q", before, stable, text)
				}
			}
		})
	}
	for range 40 {
		switch time.Sleep(5 * time.Millisecond); phase.Add(1) % 4 {
		case 1:
			must(t, errOf(ac.UserRevokeRole(root, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "ab"})))
		case 3:
			must(t, errOf(ac.UserGrantRole(root, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "ab"})))
		}
		phase.Add(1)
	}
	stop.Store(true)
	wg.Wait()
	if certain[0].Load() == 0 || certain[1].Load() == 0 {
		t.Errorf("%d requests were certainly to be done, %d to be refused", certain[0].Load(), certain[1].Load())
	}
}

// A key that is attached to a lease after the check, and before the lease's keys are read, is nobody's who may not read it.
func TestNoKeyOfALeaseIsToldToWhoMayNotReadIt(t *testing.T) {
	m := startGuarded(t)
	root, alice := withToken(soon(t), m.tokenOfUser(t, "root")), withToken(soon(t), m.tokenOfUser(t, "alice"))
	kv, leases := pb.NewKVClient(m.conn), pb.NewLeaseClient(m.conn)
	must(t, errOf(leases.LeaseGrant(root, &pb.LeaseGrantRequest{ID: 7, TTL: 1000})))
	must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("a"), Lease: 7})))
	var done atomic.Bool
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for !done.Load() {
				resp, err := leases.LeaseTimeToLive(alice, &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
				if err != nil && status.Code(err) != codes.PermissionDenied {
					t.Errorf("got %v", err)
					return
				}
				for _, k := range resp.GetKeys() {
					if string(k) != "a" {
						t.Errorf("alice was told of the key %q", k)
						return
					}
				}
			}
		})
	}
	for range 300 {
		must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("secret"), Lease: 7})))
		must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("secret")})))
	}
	done.Store(true)
	all.Wait()
	must(t, errOf(kv.Put(root, &pb.PutRequest{Key: []byte("secret"), Lease: 7})))
	if resp, err := leases.LeaseTimeToLive(root, &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}); err != nil || len(resp.Keys) != 2 {
		t.Errorf("root: %v, %v", resp, err)
	}
}

// A hash says what it costs to compare a password with it, and anybody may log in: 2^31 rounds are a day of a processor.
func TestHashesAreMadeHere(t *testing.T) {
	m := startGuarded(t)
	ac, root := pb.NewAuthClient(m.conn), withToken(soon(t), m.tokenOfUser(t, "root"))
	const hash = "$2a$04$QQ5COp1emXwh2hmzTTFIcubwRWEdzRkLd/f0U/nlQ1.lqdTbN6CqK"
	given := base64.StdEncoding.EncodeToString([]byte(hash))
	must(t, errOf(ac.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "alice", HashedPassword: given})))
	must(t, errOf(ac.UserAdd(root, &pb.AuthUserAddRequest{Name: "bob", HashedPassword: given})))
	users := 0
	must(t, m.store.DB().RangeMeta("auth-user", func(name, record []byte) error {
		if users++; bytes.Contains(record, []byte(hash)) {
			t.Errorf("user %s has the hash that the client sent", name)
		}
		return nil
	}))
	if users != 3 {
		t.Errorf("%d users", users)
	}
}
