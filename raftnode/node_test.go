package raftnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/store"
)

func mkdirTemp() (string, error) { return os.MkdirTemp("", "raftnode-test-") }

func TestWritesOutliveARestart(t *testing.T) {
	base := vfs.NewMem()
	m := openMember(t, base, 1).start().awaitReady()
	term := m.node.Status().Term
	var last int64
	for i := range 20 {
		last = m.put(fmt.Sprintf("k%d", i), "v")
	}
	if err := m.node.ReadIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster version is set", func() bool { return m.store.ClusterVersion() != "" })
	m.stop()

	m = openMember(t, base, 1).start().awaitReady()
	defer m.stop()
	for i := range 20 {
		if v, _ := m.get(fmt.Sprintf("k%d", i)); v != "v" {
			t.Errorf("k%d is %q", i, v)
		}
	}
	if rev := m.put("k", "v"); rev != last+1 {
		t.Errorf("the first write after the restart has revision %d, want %d", rev, last+1)
	}
	if s := m.node.Status(); s.Leader != 1 || s.Term != term+1 || s.ID != 1 || s.IsLearner {
		t.Errorf("status after the restart: %+v", s)
	}
	if ms := m.store.Members(); len(ms) != 1 || ms[0].Name != "m1" || len(ms[0].ClientURLs) != 1 {
		t.Errorf("members: %v", ms)
	}
	if v := m.store.ClusterVersion(); v != "3.7.0" {
		t.Errorf("cluster version %q", v)
	}
}

func TestManyRequestsShareOneEntry(t *testing.T) {
	m := newSingle(t)
	const clients, each = 64, 20
	before := m.node.Status().Applied
	rev := m.store.Revision()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				if _, err := m.tryPut(context.Background(), fmt.Sprintf("%d/%d", c, i), "v"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := m.store.Revision() - rev; got != clients*each {
		t.Errorf("%d revisions for %d requests", got, clients*each)
	}
	if entries := m.node.Status().Applied - before; entries > clients*each/2 {
		t.Errorf("%d entries for %d requests", entries, clients*each)
	}
}

func TestACounterIsLinearizable(t *testing.T) {
	c := newCluster(t, 3)
	c.leader()
	const clients, each = 8, 25
	var mu sync.Mutex
	var acknowledged int64
	var unknown atomic.Int64 // increments whose outcome nobody was told
	var wg sync.WaitGroup
	for i := range clients {
		m := c.members[i%3]
		wg.Go(func() {
			for n := 0; n < each; {
				mu.Lock()
				least := acknowledged
				mu.Unlock()
				if err := m.node.ReadIndex(context.Background()); err != nil {
					continue // the leader changed, on a busy machine
				}
				v, rev := m.get("counter")
				var count int64
				fmt.Sscan(v, &count)
				if count < least {
					t.Errorf("read %d after %d was acknowledged", count, least)
					return
				}
				res, err := m.node.Propose(context.Background(), &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
					Compare: []*pb.Compare{{Key: []byte("counter"), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}},
					Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
						Key: []byte("counter"), Value: []byte(fmt.Sprint(count + 1))}}}},
				}})
				if err != nil {
					unknown.Add(1)
					continue
				}
				if res.Err != nil {
					t.Error(res.Err)
					return
				}
				if res.Response.(*pb.TxnResponse).Succeeded {
					mu.Lock()
					acknowledged = max(acknowledged, count+1)
					mu.Unlock()
					n++
				}
			}
		})
	}
	wg.Wait()
	for _, m := range c.members {
		eventually(t, "a linearizable read", func() bool { return m.node.ReadIndex(context.Background()) == nil })
		v, _ := m.get("counter")
		var count int64
		fmt.Sscan(v, &count)
		if count < clients*each || count > clients*each+unknown.Load() {
			t.Errorf("member %d counted to %d, want %d and at most %d more", m.id, count, clients*each, unknown.Load())
		}
	}
}

func TestAJournalThatDoesNotFitTheStoreIsRefused(t *testing.T) {
	base := vfs.NewMem()
	m := openMember(t, base, 1).start().awaitReady()
	for range 5 {
		m.put("k", "v")
	}
	applied := m.node.Status().Applied
	m.stop()

	// The journal of another life, which is shorter.
	short := vfs.NewMem()
	s := openMember(t, short, 1)
	entries, err := bootstrapEntries(s.options().Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}
	if err := s.journal.Append(entries, hs, true); err != nil {
		t.Fatal(err)
	}
	m = openMember(t, base, 1)
	defer m.close()
	defer s.close()
	refused := func(what string, o Options, names ...string) {
		t.Helper()
		n, err := Start(o)
		if err == nil {
			n.Stop(context.Background())
			t.Fatalf("%s: accepted", what)
		}
		for _, name := range names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %q does not say %q", what, err, name)
			}
		}
	}
	o := m.options()
	o.Journal = s.journal
	refused("a journal that ends before the store", o, "ends at index 1", fmt.Sprintf("applied index %d", applied))

	// Entries of another history.
	var more []*raftpb.Entry
	for i := uint64(2); i <= applied+1; i++ {
		more = append(more, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(9)), Index: new(i)})
	}
	hs = &raftpb.HardState{Term: new(uint64(9)), Vote: new(uint64(0)), Commit: new(uint64(1))}
	if err := s.journal.Append(more, hs, true); err != nil {
		t.Fatal(err)
	}
	refused("a journal of another history", o, fmt.Sprintf("index %d has term 9", applied))

	// A journal that was cut, with a store from before.
	if err := m.store.DB().Flush(); err != nil {
		t.Fatal(err)
	}
	fresh := openMember(t, vfs.NewMem(), 1)
	defer fresh.close()
	if err := m.journal.WriteAnchor(anchorFor(applied)); err != nil {
		t.Fatal(err)
	}
	if err := m.journal.Cut(applied - 1); err != nil {
		t.Fatal(err)
	}
	o = fresh.options()
	o.Journal = m.journal
	refused("a journal that begins after the store", o, fmt.Sprintf("begins at index %d", applied), "applied up to index 0")
}

func TestReadsShareRoundsThatBeginAfterThem(t *testing.T) {
	m := newSingle(t)
	n := m.node
	held, release := make(chan struct{}), make(chan struct{})
	n.in.call(func() { close(held); <-release })
	<-held
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if err := n.ReadIndex(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(testTick)
	before := n.lastReadID
	close(release)
	wg.Wait()
	rounds := make(chan uint64, 1)
	n.in.call(func() { rounds <- n.lastReadID - before })
	if n := <-rounds; n == 0 || n > 20 {
		t.Errorf("%d rounds for 200 reads", n)
	}
	// A round that callers could join has not been sent, and one that was sent
	// cannot be joined.
	in := newInbox()
	open := in.join()
	if in.join() != open || in.closeRound() != open || in.join() == open {
		t.Error("a read joined a round that had been sent before")
	}
}

func TestARequestEndsWithItsContext(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	for _, f := range c.followers(lead) {
		c.net.setCut(f.id, true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := lead.tryPut(ctx, "k", "v"); err != ErrCanceled {
		t.Errorf("canceled: %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := lead.tryPut(ctx, "k", "v"); err != ErrTimeout && err != ErrTimeoutDueToConnectionLost && err != ErrTimeoutDueToLeaderFail {
		t.Errorf("deadline: %v", err)
	}
	// The leader notices that it has lost its quorum.
	eventually(t, "the leader to step down", func() bool { return lead.node.Status().Leader == 0 })
	if err := lead.node.ReadIndex(ctx); !errors.Is(err, context.DeadlineExceeded) && err != ErrLeaderChanged {
		t.Errorf("read without a quorum: %v", err)
	}
}

func TestRequestsThatAreTooLargeOrTooManyAreRefused(t *testing.T) {
	m := newSingle(t, func(o *Options) { o.MaxRequestBytes = 1000 })
	if _, err := m.tryPut(context.Background(), "k", strings.Repeat("v", 1000)); err != ErrRequestTooLarge {
		t.Errorf("too large: %v", err)
	}
	n := m.node
	commit := n.commit.Load()
	n.commit.Store(n.applied.Load() + maxApplyGap + 1)
	if _, err := m.tryPut(context.Background(), "k", "v"); err != ErrTooManyRequests {
		t.Errorf("too far behind: %v", err)
	}
	if n.exceedsApplyGap(&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{}}) {
		t.Error("the end of a lease is refused too early")
	}
	n.commit.Store(commit)
}

func TestStopDoesNotNeedAQuorum(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	for _, f := range c.followers(lead) {
		c.net.setCut(f.id, true)
	}
	failed := make(chan error, 2)
	go func() {
		_, err := lead.tryPut(context.Background(), "k", "v")
		failed <- err
	}()
	go func() { failed <- lead.node.ReadIndex(context.Background()) }()
	eventually(t, "the write to be on its way", func() bool {
		lead.node.pending.mu.Lock()
		defer lead.node.pending.mu.Unlock()
		return len(lead.node.pending.batches) > 0
	})
	start := time.Now()
	if err := lead.node.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("stopping took %v", took)
	}
	for range 2 {
		if err := <-failed; err != ErrStopped && err != ErrLeaderChanged {
			t.Errorf("what waited got %v", err)
		}
	}
	if _, err := lead.tryPut(context.Background(), "k", "v"); err != ErrStopped {
		t.Errorf("a request after the stop: %v", err)
	}
	if err := lead.node.ReadIndex(context.Background()); err != ErrStopped {
		t.Errorf("a read after the stop: %v", err)
	}
	if err := lead.node.WaitApplied(context.Background()); err != ErrStopped {
		t.Errorf("waiting after the stop: %v", err)
	}
	if _, err := lead.node.MemberRemove(context.Background(), 9); err == nil {
		t.Error("a membership change after the stop succeeded")
	}
	select {
	case <-lead.node.Done():
	default:
		t.Error("not done after the stop")
	}
	if err := lead.node.Err(); err != nil {
		t.Errorf("stopping is an error: %v", err)
	}
}

func TestStopHandsLeadershipOver(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	term := lead.node.Status().Term
	start := time.Now()
	if err := lead.node.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	next := c.leader(lead.id)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the new leader took %v", took)
	}
	if got := next.node.Status().Term; got != term+1 {
		t.Errorf("the new leader's term is %d, want %d", got, term+1)
	}
}

func TestIdsAreNeverGivenTwice(t *testing.T) {
	m := newSingle(t)
	seen := map[uint64]bool{}
	for range 1000 {
		id := m.node.NextID()
		if id == 0 || id > 1<<63-1 || seen[id] {
			t.Fatalf("id %x", id)
		}
		seen[id] = true
	}
}

func TestErrorsOfOneRequestAreItsOwn(t *testing.T) {
	m := newSingle(t)
	res, err := m.node.Propose(context.Background(), &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("none"), IgnoreValue: true}})
	if err != nil || !errors.Is(res.Err, store.ErrKeyNotFound) {
		t.Errorf("%v, %v", res.Err, err)
	}
}
