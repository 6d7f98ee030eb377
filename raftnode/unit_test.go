package raftnode

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/store"
)

func TestBootstrapEntriesAreTheSameOnEveryMember(t *testing.T) {
	one, err := bootstrapEntries([]*pb.Member{
		{ID: 7, Name: "me", PeerURLs: []string{"http://b:1", "http://a:1"}, ClientURLs: []string{"http://c:1"}},
		{ID: 3, PeerURLs: []string{"http://d:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := bootstrapEntries([]*pb.Member{
		{ID: 3, Name: "me", PeerURLs: []string{"http://d:1"}},
		{ID: 7, PeerURLs: []string{"http://a:1", "http://b:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != 2 || len(other) != 2 {
		t.Fatalf("%d and %d entries, want 2", len(one), len(other))
	}
	for i := range one {
		if !bytes.Equal(one[i].Data, other[i].Data) || one[i].GetIndex() != uint64(i+1) || one[i].GetTerm() != 1 {
			t.Errorf("entry %d differs", i)
		}
	}
	if _, err := bootstrapEntries([]*pb.Member{{ID: 3}, {ID: 3}}); err == nil {
		t.Error("two members of one id were accepted")
	}
}

func TestAFrameHoldsWhatSeveralAppendsLeaveBehind(t *testing.T) {
	entries := func(term uint64, indexes ...uint64) []*raftpb.Entry {
		var es []*raftpb.Entry
		for _, i := range indexes {
			es = append(es, &raftpb.Entry{Term: new(term), Index: new(i)})
		}
		return es
	}
	message := func(es []*raftpb.Entry, hs *raftpb.HardState, responses int) *raftpb.Message {
		m := &raftpb.Message{Entries: es, Responses: make([]*raftpb.Message, responses)}
		if hs != nil {
			m.Term, m.Vote, m.Commit = hs.Term, hs.Vote, hs.Commit
		}
		return m
	}
	saved := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(uint64(4))}
	committed := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(uint64(6))}
	elected := &raftpb.HardState{Term: new(uint64(2)), Vote: new(uint64(1)), Commit: new(uint64(6))}

	first := entries(1, 5, 6, 7)
	var f frame
	f.add(message(first, nil, 1))
	f.add(message(nil, committed, 0))
	f.add(message(entries(2, 7, 8), elected, 2))
	f.add(message(entries(2, 9), nil, 1))
	var got [][2]uint64
	for _, e := range f.entries {
		got = append(got, [2]uint64{e.GetIndex(), e.GetTerm()})
	}
	if want := [][2]uint64{{5, 1}, {6, 1}, {7, 2}, {8, 2}, {9, 2}}; !slices.Equal(got, want) {
		t.Errorf("entries %v, want %v", got, want)
	}
	if first[2].GetTerm() != 1 || f.hs.GetTerm() != 2 || len(f.responses) != 4 || f.messages != 3 || !f.sync(saved) {
		t.Errorf("raft's slice changed, or the frame is wrong: %+v", f)
	}

	f = frame{}
	f.add(message(entries(1, 5, 6), nil, 0))
	f.add(message(entries(2, 3, 4), nil, 0))
	if len(f.entries) != 2 || f.entries[0].GetIndex() != 3 {
		t.Errorf("what replaces all entries before it left %v", f.entries)
	}

	f = frame{}
	if err := f.add(&raftpb.Message{Snapshot: &raftpb.Snapshot{}}); err == nil {
		t.Error("a snapshot is answered for that was not written")
	}

	f = frame{}
	f.add(message(nil, committed, 1))
	if f.sync(saved) {
		t.Error("a commit index alone is synced")
	}
	f.add(message(nil, elected, 1))
	if !f.sync(saved) {
		t.Error("a new term is not synced")
	}
}

func TestBatchesAreBounded(t *testing.T) {
	n := &Node{}
	small := func() *proposal { return &proposal{size: 100, done: make(chan struct{}, 1)} }
	var waiting []*proposal
	for range maxBatchRequests + 1 {
		waiting = append(waiting, small())
	}
	gone := small()
	gone.finish(store.Result{}, ErrCanceled)
	waiting = append(waiting, gone, &proposal{size: maxBatchBytes + 1, done: make(chan struct{}, 1)}, small())
	stale := &proposal{size: 100, term: 5, done: make(chan struct{}, 1)}
	waiting = append(waiting, stale)
	var sizes []int
	for _, b := range n.gather(waiting) {
		sizes = append(sizes, len(b.proposals))
	}
	if want := []int{maxBatchRequests, 1, 1, 1}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v requests, want %v", sizes, want)
	}
	if stale.err != ErrNotLeader {
		t.Errorf("a request for another term: %v", stale.err)
	}
}

// compactions runs a compactor on a fake clock, on which one revision a second
// is written, and returns when it compacted to what.
func compactions(t *testing.T, run func(context.Context, *compactor), howLong time.Duration,
	leads func(elapsed time.Duration) bool, compact func(elapsed time.Duration) error) (at []time.Duration, to []int64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), howLong)
		defer cancel()
		c := &compactor{
			lg:       zap.NewNop(),
			revision: func() int64 { return 1 + int64(time.Since(start)/time.Second) },
			leads:    func() bool { return leads(time.Since(start)) },
			compact: func(_ context.Context, rev int64) error {
				at = append(at, time.Since(start))
				to = append(to, rev)
				return compact(time.Since(start))
			},
		}
		run(ctx, c)
	})
	return at, to
}

func always(time.Duration) bool { return true }
func fine(time.Duration) error  { return nil }

func TestPeriodicCompactionKeepsAPeriod(t *testing.T) {
	for _, c := range []struct {
		period, first, every time.Duration
	}{
		{10 * time.Minute, 10 * time.Minute, 10 * time.Minute},
		{time.Hour, time.Hour, time.Hour},
		{24 * time.Hour, 24 * time.Hour, time.Hour},
	} {
		run := func(ctx context.Context, k *compactor) { k.periodically(ctx, c.period) }
		at, to := compactions(t, run, c.period+3*c.every+time.Second, always, fine)
		if len(at) != 4 {
			t.Fatalf("%v: compacted at %v", c.period, at)
		}
		for i := range at {
			when := c.first + time.Duration(i)*c.every
			// As in etcd, the oldest revision noted is a period and a tenth old.
			noted := max(when-c.period-c.every/10, 0)
			if want := 1 + int64(noted/time.Second); at[i] != when || to[i] != want {
				t.Errorf("%v: compaction %d at %v to %d, want at %v to %d", c.period, i, at[i], to[i], when, want)
			}
		}
	}
}

func TestPeriodicCompactionTriesAgainSoonAfterAFailure(t *testing.T) {
	run := func(ctx context.Context, k *compactor) { k.periodically(ctx, time.Hour) }
	fails := func(elapsed time.Duration) error {
		if elapsed == time.Hour {
			return errors.New("no quorum")
		}
		return mvcc.ErrCompacted // somebody else was faster: as good as success
	}
	at, _ := compactions(t, run, 3*time.Hour, always, fails)
	if want := []time.Duration{time.Hour, 66 * time.Minute, 126 * time.Minute}; !slices.Equal(at, want) {
		t.Errorf("compacted at %v, want %v", at, want)
	}
}

func TestOnlyALeaderCompacts(t *testing.T) {
	run := func(ctx context.Context, k *compactor) { k.periodically(ctx, time.Hour) }
	late := func(elapsed time.Duration) bool { return elapsed > 90*time.Minute }
	at, to := compactions(t, run, 2*time.Hour, late, fine)
	if len(at) == 0 || at[0] != 96*time.Minute || to[0] != 1+30*60 {
		t.Errorf("a new leader compacted at %v to %v", at, to)
	}
	run = func(ctx context.Context, k *compactor) { k.byRevision(ctx, 10) }
	if at, _ := compactions(t, run, 2*time.Hour, func(time.Duration) bool { return false }, fine); len(at) > 0 {
		t.Errorf("a follower compacted at %v", at)
	}
}

func TestCompactionByRevisionKeepsRevisions(t *testing.T) {
	run := func(ctx context.Context, k *compactor) { k.byRevision(ctx, 400) }
	at, to := compactions(t, run, 16*time.Minute, always, fine)
	if want := []time.Duration{10 * time.Minute, 15 * time.Minute}; !slices.Equal(at, want) {
		t.Errorf("compacted at %v, want %v", at, want)
	}
	if want := []int64{601 - 400, 901 - 400}; !slices.Equal(to, want) {
		t.Errorf("compacted to %v, want %v", to, want)
	}
}

func TestIndexWaits(t *testing.T) {
	var w indexWaits
	var got []string
	note := func(name string) func(error) {
		return func(err error) {
			if err != nil {
				name += "!"
			}
			got = append(got, name)
		}
	}
	w.reach(3)
	w.add(3, note("3"))
	w.add(5, note("5"))
	w.add(4, note("4"))
	w.add(9, note("9"))
	w.reach(5)
	w.abort(ErrStopped)
	w.add(1, note("1"))
	if want := []string{"3", "5", "4", "9!", "1!"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMessagesThatRaftWouldNotSurviveAreRefused(t *testing.T) {
	m := newSingle(t)
	id, other := m.node.o.ID, m.node.o.ID+1
	message := func(t raftpb.MessageType, es ...*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{Type: t.Enum(), From: &other, To: &id, Entries: es}
	}
	for name, bad := range map[string]*raftpb.Message{
		"empty proposal":  message(raftpb.MsgProp),
		"joint change":    message(raftpb.MsgProp, &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum()}),
		"snapshot":        message(raftpb.MsgSnap),
		"local message":   message(raftpb.MsgHup),
		"to another":      {Type: raftpb.MsgHeartbeat.Enum(), From: &id, To: &other},
		"from the member": {Type: raftpb.MsgHeartbeat.Enum(), From: &id, To: &id},
	} {
		if err := m.node.Step(bad); err == nil {
			t.Errorf("%s: taken in", name)
		}
	}
	m.put("k", "v")
}
