package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestEveryResponseNamesClusterMemberRevisionAndTerm(t *testing.T) {
	m := startMember(t)
	ctx := soon(t)
	put := m.put(t, "a", "1")
	rng, err := m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	must(t, err)
	del, err := m.kv().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a")})
	must(t, err)
	tx, err := m.kv().Txn(ctx, txn(opPut("b")))
	must(t, err)
	read, err := m.kv().Txn(ctx, txn(opRange(&pb.RangeRequest{Key: []byte("b")})))
	must(t, err)
	grant, err := m.leases().LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
	must(t, err)
	ttl, err := m.leases().LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: grant.ID})
	must(t, err)
	leases, err := m.leases().LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	must(t, err)
	revoke, err := m.leases().LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: grant.ID})
	must(t, err)
	compact, err := m.kv().Compact(ctx, &pb.CompactionRequest{Revision: 3})
	must(t, err)
	st, err := m.maintenance().Status(ctx, &pb.StatusRequest{})
	must(t, err)
	alarm, err := m.maintenance().Alarm(ctx, &pb.AlarmRequest{})
	must(t, err)
	members, err := m.cluster().MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	must(t, err)
	auth, err := pb.NewAuthClient(m.conn).AuthStatus(ctx, &pb.AuthStatusRequest{})
	must(t, err)

	for _, c := range []struct {
		name   string
		header *pb.ResponseHeader
		rev    int64
	}{
		{"put", put.Header, 2}, {"range", rng.Header, 2}, {"delete", del.Header, 3}, {"txn", tx.Header, 4},
		{"read-only txn", read.Header, 4}, {"grant", grant.Header, 4}, {"ttl", ttl.Header, 4}, {"leases", leases.Header, 4},
		{"revoke", revoke.Header, 4}, {"compact", compact.Header, 4}, {"status", st.Header, 4}, {"alarm", alarm.Header, 4},
		{"members", members.Header, 0}, {"auth status", auth.Header, 4},
	} {
		want := &pb.ResponseHeader{ClusterId: m.clusterID, MemberId: m.id, Revision: c.rev, RaftTerm: m.node.Status().Term}
		if !proto.Equal(c.header, want) {
			t.Errorf("%s: header %v, want %v", c.name, c.header, want)
		}
	}
}

// errOf drops a response.
func errOf[T any](_ T, err error) error { return err }

// Errors over the wire, as a client in any language sees them: code and text.
func TestRefusalsOverTheWire(t *testing.T) {
	m := startMember(t, func(o *memberOptions) {
		o.api.MaxTxnOps = 3
		o.api.MaxRequestBytes, o.raft.MaxRequestBytes = 64<<10, 64<<10
	})
	ctx := soon(t)
	kv, leases, cluster, maint := m.kv(), m.leases(), m.cluster(), m.maintenance()
	k := []byte("k")
	m.put(t, "k", "1")
	m.put(t, "k", "2")
	m.put(t, "k", "3") // revision 4
	_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 3, Physical: true})
	must(t, err)
	_, err = leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 600})
	must(t, err)

	for _, c := range []struct {
		name string
		got  error
		want error
	}{
		{"range without key", errOf(kv.Range(ctx, &pb.RangeRequest{})), rpctypes.ErrGRPCEmptyKey},
		{"bad sort", errOf(kv.Range(ctx, &pb.RangeRequest{Key: k, SortOrder: 77})), rpctypes.ErrGRPCInvalidSortOption},
		{"compacted", errOf(kv.Range(ctx, &pb.RangeRequest{Key: k, Revision: 2})), rpctypes.ErrGRPCCompacted},
		{"future", errOf(kv.Range(ctx, &pb.RangeRequest{Key: k, Revision: 99})), rpctypes.ErrGRPCFutureRev},
		{"put without key", errOf(kv.Put(ctx, &pb.PutRequest{})), rpctypes.ErrGRPCEmptyKey},
		{"put with a value to ignore", errOf(kv.Put(ctx, &pb.PutRequest{Key: k, Value: k, IgnoreValue: true})), rpctypes.ErrGRPCValueProvided},
		{"put with a lease to ignore", errOf(kv.Put(ctx, &pb.PutRequest{Key: k, Lease: 7, IgnoreLease: true})), rpctypes.ErrGRPCLeaseProvided},
		{"put of a missing key's value", errOf(kv.Put(ctx, &pb.PutRequest{Key: []byte("no"), IgnoreValue: true})), rpctypes.ErrGRPCKeyNotFound},
		{"put on a missing lease", errOf(kv.Put(ctx, &pb.PutRequest{Key: k, Lease: 8})), rpctypes.ErrGRPCLeaseNotFound},
		{"put that is too large", errOf(kv.Put(ctx, &pb.PutRequest{Key: k, Value: make([]byte, 64<<10)})), rpctypes.ErrGRPCRequestTooLarge},
		{"too many operations", errOf(kv.Txn(ctx, txn(opPut("a"), opPut("b"), opPut("c"), opPut("d")))), rpctypes.ErrGRPCTooManyOps},
		{"duplicate key", errOf(kv.Txn(ctx, txn(opPut("a"), opPut("a")))), rpctypes.ErrGRPCDuplicateKey},
		{"compact again", errOf(kv.Compact(ctx, &pb.CompactionRequest{Revision: 3})), rpctypes.ErrGRPCCompacted},
		{"compact the future", errOf(kv.Compact(ctx, &pb.CompactionRequest{Revision: 99})), rpctypes.ErrGRPCFutureRev},
		{"grant a lease twice", errOf(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60})), rpctypes.ErrGRPCLeaseExist},
		{"grant for too long", errOf(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9_000_000_001})), rpctypes.ErrGRPCLeaseTTLTooLarge},
		{"revoke a missing lease", errOf(leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 8})), rpctypes.ErrGRPCLeaseNotFound},
		{"add a member without URLs", errOf(cluster.MemberAdd(ctx, &pb.MemberAddRequest{})), rpctypes.ErrGRPCMemberBadURLs},
		{"add a member with a bad URL", errOf(cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"localhost"}})), rpctypes.ErrGRPCMemberBadURLs},
		{"add a member at a URL in use", errOf(cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{testPeerURL}, IsLearner: true})), rpctypes.ErrGRPCPeerURLExist},
		{"remove a missing member", errOf(cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 9})), rpctypes.ErrGRPCMemberNotFound},
		{"update a missing member", errOf(cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 9, PeerURLs: []string{"http://127.0.0.1:1"}})), rpctypes.ErrGRPCMemberNotFound},
		{"promote a missing member", errOf(cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 9})), rpctypes.ErrGRPCMemberNotFound},
		{"promote a voter", errOf(cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: m.id})), rpctypes.ErrGRPCMemberNotLearner},
		{"move the leader nowhere", errOf(maint.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 9})), rpctypes.ErrGRPCBadLeaderTransferee},
		{"hash of the compacted", errOf(maint.HashKV(ctx, &pb.HashKVRequest{Revision: 2})), rpctypes.ErrGRPCCompacted},
		{"hash of the future", errOf(maint.HashKV(ctx, &pb.HashKVRequest{Revision: 99})), rpctypes.ErrGRPCFutureRev},
		{"downgrade to nonsense", errOf(maint.Downgrade(ctx, &pb.DowngradeRequest{Version: "x"})), rpctypes.ErrGRPCWrongDowngradeVersionFormat},
		{"downgrade too far", errOf(maint.Downgrade(ctx, &pb.DowngradeRequest{Version: "3.5"})), rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{"downgrade of an unknown kind", errOf(maint.Downgrade(ctx, &pb.DowngradeRequest{Action: 9})), status.Error(codes.Unknown, "etcdserver: unknown method")},
		{"authenticate", errOf(pb.NewAuthClient(m.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root"})), rpctypes.ErrGRPCAuthNotEnabled},
	} {
		got, want := status.Convert(c.got), status.Convert(c.want)
		if got.Code() != want.Code() || got.Message() != want.Message() {
			t.Errorf("%s: got %v %q, want %v %q", c.name, got.Code(), got.Message(), want.Code(), want.Message())
		}
	}
	if r, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), CountOnly: true}); err != nil || r.Count != 1 || r.Header.Revision != 4 {
		t.Errorf("what was refused left traces: %v, %v", r, err)
	}
}

func TestMessagesBeyondTheLimitAreRefusedByTheTransport(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.MaxRequestBytes, o.raft.MaxRequestBytes = 64<<10, 64<<10 })
	_, err := m.kv().Put(soon(t), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 64<<10+messageOverhead)})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("got %v", err)
	}
}

func TestRangeStreamSendsHeaderMoreAndCountOnlyAtTheEnd(t *testing.T) {
	m := startMember(t)
	for _, k := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"} {
		m.put(t, k, k)
	}
	stream, err := m.kv().RangeStream(soon(t), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 11})
	must(t, err)
	var chunks []*pb.RangeResponse
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(t, err)
		chunks = append(chunks, r.RangeResponse)
	}
	if len(chunks) < 2 {
		t.Fatalf("%d chunks", len(chunks))
	}
	n := 0
	for i, c := range chunks {
		n += len(c.Kvs)
		if last := i == len(chunks)-1; !last && (c.Header != nil || c.More || c.Count != 0) {
			t.Errorf("chunk %d: header %v, more %v, count %d", i, c.Header, c.More, c.Count)
		}
	}
	last := chunks[len(chunks)-1]
	if n != 11 || !last.More || last.Count != 13 || last.Header.GetRevision() != 14 || last.Header.MemberId != m.id {
		t.Errorf("%d keys; at the end: header %v, more %v, count %d", n, last.Header, last.More, last.Count)
	}

	stream, err = m.kv().RangeStream(soon(t), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), SortOrder: pb.RangeRequest_DESCEND})
	must(t, err)
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("backwards: %v", err)
	}
}

func TestClientsOfEtcdsOwnLibraryReadTheErrors(t *testing.T) {
	m := startMember(t)
	_, err := m.client.Put(soon(t), "", "v")
	if !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("got %v", err)
	}
	if _, err := m.client.Get(soon(t), "k", clientv3.WithRev(100)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("got %v", err)
	}
}

func TestAReadThatItsCallerGaveUpSaysSo(t *testing.T) {
	m := startMember(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := kvServer{API: m.api}.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
