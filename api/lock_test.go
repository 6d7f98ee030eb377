package api

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/v3electionpb"
	"github.com/cofferkv/coffer/api/v3lockpb"
)

// What locks and elections answer is compared with etcd in test/differential.

func TestWhoWaitsForALockIsServedInTurnAndLeavesNothingBehind(t *testing.T) {
	m := startMember(t)
	ctx := soon(t)
	locks := v3lockpb.NewLockClient(m.conn)
	owner, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
	must(t, err)

	type locked struct {
		who int
		key []byte
	}
	got := make(chan locked)
	for who := range 3 {
		go func() {
			resp, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
			if err != nil {
				t.Error(err)
			}
			got <- locked{who, resp.GetKey()}
		}()
		m.awaitKeys(t, "l", int64(who)+2)
	}
	hurry, cancel := context.WithCancel(ctx)
	left := make(chan error)
	go func() {
		_, err := locks.Lock(hurry, &v3lockpb.LockRequest{Name: []byte("l")})
		left <- err
	}()
	m.awaitKeys(t, "l", 5)
	cancel()
	if <-left == nil {
		t.Error("a lock was had that is taken")
	}
	m.awaitKeys(t, "l", 4)

	key := owner.Key
	for who := range 3 {
		_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: key})
		must(t, err)
		next := <-got
		if next.who != who {
			t.Errorf("%d has the lock, want %d", next.who, who)
		}
		key = next.key
	}
}

func TestWaitsForLocksAndElectionsEndWithTheMember(t *testing.T) {
	m := startMember(t)
	ctx := soon(t)
	locks, elections := v3lockpb.NewLockClient(m.conn), v3electionpb.NewElectionClient(m.conn)
	_, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("n")})
	must(t, err)
	observed, err := elections.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("none")})
	must(t, err)
	ended := make(chan error, 3)
	go func() {
		_, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("n")})
		ended <- err
	}()
	go func() {
		_, err := elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("n")})
		ended <- err
	}()
	go func() {
		_, err := observed.Recv()
		ended <- err
	}()
	m.awaitKeys(t, "n", 3)
	start := time.Now()
	m.api.Close()
	for range 3 {
		if err := <-ended; status.Convert(err).Message() != "etcdserver: server stopped" {
			t.Errorf("ended with %v", err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// awaitKeys waits until so many places are in the queue of a name.
func (m *member) awaitKeys(t *testing.T, name string, n int64) {
	t.Helper()
	r := &pb.RangeRequest{Key: fmt.Append(nil, name, "/"), RangeEnd: fmt.Append(nil, name, "0"), CountOnly: true}
	for {
		resp, err := m.kv().Range(soon(t), r)
		must(t, err)
		if resp.Count == n {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLocksAndElectionsAreForThoseWhoMayUseTheirKeys(t *testing.T) {
	m := startGuarded(t)
	root := withToken(soon(t), m.tokenOfUser(t, "root"))
	alice := withToken(soon(t), m.tokenOfUser(t, "alice")) // may read and write [a, c)
	locks, elections := v3lockpb.NewLockClient(m.conn), v3electionpb.NewElectionClient(m.conn)
	denied := status.Convert(rpctypes.ErrGRPCPermissionDenied).Message()

	owned, err := locks.Lock(root, &v3lockpb.LockRequest{Name: []byte("a")})
	must(t, err)
	waited := make(chan error)
	go func() {
		_, err := locks.Lock(alice, &v3lockpb.LockRequest{Name: []byte("a")})
		waited <- err
	}()
	time.Sleep(100 * time.Millisecond)
	must(t, errOf(locks.Unlock(root, &v3lockpb.UnlockRequest{Key: owned.Key})))
	must(t, <-waited)
	must(t, errOf(elections.Campaign(alice, &v3electionpb.CampaignRequest{Name: []byte("b")})))
	for what, err := range map[string]error{
		"lock":     errOf(locks.Lock(alice, &v3lockpb.LockRequest{Name: []byte("x")})),
		"unlock":   errOf(locks.Unlock(alice, &v3lockpb.UnlockRequest{Key: []byte("x")})),
		"campaign": errOf(elections.Campaign(alice, &v3electionpb.CampaignRequest{Name: []byte("x")})),
		"leader":   errOf(elections.Leader(alice, &v3electionpb.LeaderRequest{Name: []byte("x")})),
	} {
		if status.Convert(err).Message() != denied {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Observe says of nothing why it ends.
	observed, err := elections.Observe(alice, &v3electionpb.LeaderRequest{Name: []byte("x")})
	must(t, err)
	if _, err := observed.Recv(); err != io.EOF {
		t.Errorf("observing what may not be read: %v", err)
	}
	if err := errOf(locks.Lock(soon(t), &v3lockpb.LockRequest{Name: []byte("a")})); err == nil {
		t.Error("nobody has a lock")
	}
}
