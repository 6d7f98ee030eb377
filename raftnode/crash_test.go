package raftnode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// written is what a client knows of its own key.
type written struct {
	mu    sync.Mutex
	count int   // the value last acknowledged
	rev   int64 // and its revision
}

// The disk stops at random instants while clients write, the store is flushed
// and the journal cut all the time: what was acknowledged before is there, at
// the revision that was acknowledged, and no later write gets that revision
// again. In every third life the data keys are rotated. COFFER_LONG=1 makes it
// many more instants.
func TestAcknowledgedWritesSurviveACrashAtAnyInstant(t *testing.T) {
	crashes := 20
	if os.Getenv("COFFER_LONG") != "" {
		crashes = 10000
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))

	small := func(o *Options) {
		o.SnapshotCount, o.CatchUpEntries, o.FlushBytes = 20, 5, 64<<10
	}
	const clients = 8
	var base *vfs.MemFS
	var state []written
	var revisions map[int64]string // acknowledged, over all lives on one disk
	var revMu sync.Mutex
	for life := range crashes {
		if life%40 == 0 { // a disk that holds many lives only takes longer
			base, state, revisions = vfs.NewCrashableMem(), make([]written, clients), map[int64]string{}
		}
		if life > 0 && life%1000 == 0 {
			t.Logf("%d crashes", life)
		}
		m := openMember(t, base, 1).start(small).awaitReady()
		for c := range clients {
			v, rev := m.get(fmt.Sprint(c))
			var count int
			fmt.Sscan(v, &count)
			s := &state[c]
			if count < s.count || (count == s.count && rev != s.rev) {
				t.Fatalf("life %d: key %d is %d at revision %d, acknowledged was %d at %d", life, c, count, rev, s.count, s.rev)
			}
			s.count, s.rev = count, rev
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for c := range clients {
			s := &state[c]
			wg.Go(func() {
				next := s.count
				for !stop.Load() {
					next++
					key := fmt.Sprint(c)
					rev, err := m.tryPut(context.Background(), key, fmt.Sprint(next, strings.Repeat(" ", next%2000)))
					if err != nil {
						return
					}
					s.mu.Lock()
					s.count, s.rev = next, rev
					s.mu.Unlock()
					revMu.Lock()
					what := key + "=" + fmt.Sprint(next)
					if other, ok := revisions[rev]; ok {
						t.Errorf("revision %d was given to %s and to %s", rev, other, what)
					}
					revisions[rev] = what
					revMu.Unlock()
				}
			})
		}
		if life%3 == 0 {
			wg.Go(func() {
				if _, err := m.node.RotateKeys(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
		// What is acknowledged from here on may be lost: remember what was
		// acknowledged before the disk stops.
		before := make([]written, clients)
		for c := range clients {
			s := &state[c]
			s.mu.Lock()
			before[c].count, before[c].rev = s.count, s.rev
			s.mu.Unlock()
		}
		percent := rng.IntN(101)
		crashed := base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		stop.Store(true)
		wg.Wait()
		m.stop()
		base = crashed
		for c := range clients {
			state[c].count, state[c].rev = before[c].count, before[c].rev
		}
		// Revisions acknowledged after the crash never were, for the next life.
		var last int64
		for c := range clients {
			last = max(last, before[c].rev)
		}
		for rev := range revisions {
			if rev > last {
				delete(revisions, rev)
			}
		}
	}
}

func TestAFailedSyncEndsTheMemberAndNamesTheFile(t *testing.T) {
	var armed atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if armed.Load() && sync && strings.Contains(op.Path, "journal") {
			return fmt.Errorf("the disk is gone")
		}
		return nil
	})
	mem := vfs.NewCrashableMem()
	m := openMember(t, errorfs.Wrap(mem, inj), 1).start().awaitReady()
	m.put("k", "1")
	armed.Store(true)
	if _, err := m.tryPut(context.Background(), "k", "2"); err != ErrStopped {
		t.Errorf("the write got %v", err)
	}
	select {
	case <-m.node.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the member goes on")
	}
	if err := m.node.Err(); err == nil || !strings.Contains(err.Error(), "data/journal/") || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("it ended with %v", err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := m.node.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	m = openMember(t, crashed, 1).start().awaitReady()
	defer m.stop()
	if v, _ := m.get("k"); v != "1" {
		t.Errorf("after the restart k is %q", v)
	}
}

func TestAnUnreadableJournalEndsTheMemberAndNamesTheFile(t *testing.T) {
	var armed atomic.Bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if armed.Load() && op.Kind == errorfs.OpFileReadAt && strings.Contains(op.Path, "journal") {
			return fmt.Errorf("the disk is gone")
		}
		return nil
	})
	base := errorfs.Wrap(vfs.NewMem(), inj)
	m := openMember(t, base, 1).start().awaitReady()
	m.put("k", "v")
	last := m.node.Status().Applied
	m.stop()
	m = openMember(t, base, 1).start().awaitReady() // nothing is in memory now
	armed.Store(true)
	// As raft does for a member that has fallen behind.
	m.node.in.call(func() {
		s := &raftStorage{n: m.node}
		s.Entries(1, last+1, 1<<20)
		t.Error("raft went on without the entries")
	})
	select {
	case <-m.node.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the member goes on")
	}
	if err := m.node.Err(); err == nil || !strings.Contains(err.Error(), "data/journal/") || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := m.tryPut(context.Background(), "k", "w"); err != ErrStopped {
		t.Errorf("a write then got %v", err)
	}
	armed.Store(false)
	m.stop()
}

// The commit index is not synced on its own, so after a crash a member may know
// less to be committed than it had acknowledged, or even than its store has.
func TestTheFirstReadAfterACrashSeesWhatWasAcknowledged(t *testing.T) {
	base := vfs.NewCrashableMem()
	for i := range 20 {
		m := openMember(t, base, 1)
		applied, _ := m.store.Applied()
		commit := m.journal.HardState().GetCommit()
		if i > 0 && i%2 == 0 && commit >= applied {
			t.Errorf("the journal knows of commit index %d, the store has applied %d: nothing is shown", commit, applied)
		}
		m.start()
		if err := m.node.ReadIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
		if v, _ := m.get("k"); i > 0 && v != fmt.Sprint(i-1) {
			t.Fatalf("life %d read %q", i, v)
		}
		m.awaitReady()
		// A write of the member's own would carry the commit index.
		eventually(t, "the cluster version is set", func() bool { return m.store.ClusterVersion() != "" })
		m.put("k", fmt.Sprint(i))
		if i%2 == 1 {
			if err := m.store.DB().Flush(); err != nil {
				t.Fatal(err)
			}
		}
		crashed := base.CrashClone(vfs.CrashCloneCfg{})
		m.stop()
		base = crashed
	}
}

func TestAFollowerAppliesOnlyWhatItsOwnJournalHasSynced(t *testing.T) {
	var slow atomic.Uint64 // the member whose journal does not sync
	release := make(chan struct{})
	c := newClusterOn(t, 3, func(id uint64) vfs.FS {
		return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
			if sync && slow.Load() == id && strings.Contains(op.Path, "journal") {
				<-release
			}
			return nil
		}))
	})
	lead := c.leader()
	f := c.followers(lead)[0]
	slow.Store(f.id)
	lead.put("k", "v")
	want := lead.node.Status().Applied
	eventually(t, "the follower to know what is committed", func() bool { return f.node.Status().Commit >= want })
	time.Sleep(5 * testTick)
	if got := f.node.Status().Applied; got >= want {
		t.Errorf("the follower has applied index %d, which its journal has not synced", got)
	}
	slow.Store(0)
	close(release)
	eventually(t, "the follower to apply", func() bool { return f.node.Status().Applied >= want })
	if v, _ := f.get("k"); v != "v" {
		t.Errorf("it has %q", v)
	}
}
