package api

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func cutOff(o *memberOptions)   { o.cutOff = true }
func learning(o *memberOptions) { o.cutOff, o.learner = true, true }

func TestWithoutALeader(t *testing.T) {
	m := startMember(t, cutOff)
	wantsLeader := metadata.AppendToOutgoingContext(soon(t), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	k := &pb.RangeRequest{Key: []byte("k"), Serializable: true}
	if _, err := m.kv().Range(soon(t), k); err != nil {
		t.Errorf("a serializable read: %v", err)
	}
	if _, err := m.kv().Range(wantsLeader, k); status.Convert(err).Message() != "etcdserver: no leader" {
		t.Errorf("a serializable read that wants a leader: %v", err)
	}
	if err := errOf(m.watch(t, wantsLeader).Recv()); status.Convert(err).Message() != "etcdserver: no leader" {
		t.Errorf("a watch that wants a leader: %v", err)
	}
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k")})
	if r, err := s.Recv(); err != nil || !r.Created {
		t.Errorf("a watch: %v, %v", r, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.kv().Range(short, &pb.RangeRequest{Key: []byte("k")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a linearizable read: %v", err)
	}
	st, err := m.maintenance().Status(soon(t), &pb.StatusRequest{})
	must(t, err)
	if st.Leader != 0 || len(st.Errors) != 1 || st.Errors[0] != "etcdserver: no leader" {
		t.Errorf("status: leader %x, errors %v", st.Leader, st.Errors)
	}
	if _, err := m.maintenance().MoveLeader(soon(t), &pb.MoveLeaderRequest{TargetID: m.id}); status.Convert(err).Message() != "etcdserver: not leader" {
		t.Errorf("move leader: %v", err)
	}
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}`},
		{"/health?serializable=true", 200, `{"health":"true","reason":""}`},
		{"/livez", 200, "ok"},
		{"/readyz?exclude=linearizable_read", 200, "ok"},
	} {
		if got, body := m.get(t, c.path); got != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: status %d: %s", c.path, got, body)
		}
	}
}

// A probe that cannot get an answer ends with its request.
func TestReadinessFailsWithoutAQuorum(t *testing.T) {
	m := startMember(t, cutOff)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	m.api.HTTPHandler().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil).WithContext(ctx))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "[-]linearizable_read failed: ") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

func TestALearnerAnswersOnlyWhatNeedsNoVote(t *testing.T) {
	m := startMember(t, learning)
	ctx := soon(t)
	refused := func(what string, err error) {
		t.Helper()
		if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "etcdserver: rpc not supported for learner" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Errorf("a serializable read: %v", err)
	}
	st, err := m.maintenance().Status(ctx, &pb.StatusRequest{})
	must(t, err)
	if !st.IsLearner {
		t.Error("its status does not say that it is a learner")
	}
	snapshot, err := m.maintenance().Snapshot(ctx, &pb.SnapshotRequest{})
	must(t, err)
	must(t, errOf(snapshot.Recv()))

	refused("a linearizable read", errOf(m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k")})))
	refused("a put", errOf(m.kv().Put(ctx, &pb.PutRequest{Key: []byte("k")})))
	refused("a list of members", errOf(m.cluster().MemberList(ctx, &pb.MemberListRequest{})))
	refused("a watch", errOf(m.watch(t, ctx).Recv()))
	keepAlive, err := m.leases().LeaseKeepAlive(ctx)
	must(t, err)
	refused("a keep-alive", errOf(keepAlive.Recv()))
	if got, body := m.get(t, "/readyz/non_learner"); got != 503 || !strings.Contains(body, "not supported for learner") {
		t.Errorf("/readyz/non_learner: status %d: %s", got, body)
	}
}
