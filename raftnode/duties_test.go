package raftnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/store"
)

func anchorFor(index uint64) journal.Anchor {
	return journal.Anchor{Manifest: "MANIFEST-000001", DurableApplied: index, KeyringGeneration: 1}
}

func (m *member) grant(id, ttl int64) {
	m.t.Helper()
	res, err := m.node.Propose(context.Background(), &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: id, TTL: ttl}})
	if err != nil || res.Err != nil {
		m.t.Fatal(err, res.Err)
	}
}

func TestALeaseEndsWithItsKeys(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	f := c.followers(lead)[0]
	lead.grant(5, 1)
	res, err := lead.node.Propose(context.Background(), &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Lease: 5}})
	if err != nil || res.Err != nil {
		t.Fatal(err, res.Err)
	}
	if err := f.node.ReadIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if ttl, err := lead.node.LeaseRenew(context.Background(), 5); ttl != 1 || err != nil {
		t.Errorf("renewed to %d, %v", ttl, err)
	}
	r, err := lead.node.LeaseTimeToLive(context.Background(), 5, true)
	if err != nil || r.GrantedTTL != 1 || len(r.Keys) != 1 || string(r.Keys[0]) != "k" {
		t.Errorf("time to live: %v, %v", r, err)
	}
	eventually(t, "the lease to end on a follower", func() bool {
		_, ok := f.store.Lessor().Lookup(5)
		return !ok
	})
	if took := time.Since(start); took < time.Second {
		t.Errorf("it ended after %v", took)
	}
	eventually(t, "its key to go with it", func() bool {
		_, rev := f.get("k")
		return rev == 0
	})
	if _, err := lead.node.LeaseRenew(context.Background(), 5); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("renewing it: %v", err)
	}
	if _, err := lead.node.LeaseTimeToLive(context.Background(), 5, false); !errors.Is(err, lease.ErrNotFound) {
		t.Errorf("its time to live: %v", err)
	}
}

func TestANewLeaderGivesLeasesTheirTimeAgain(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	lead.grant(5, 2)
	time.Sleep(1200 * time.Millisecond)
	next := c.followers(lead)[0]
	if err := next.node.ReadIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := lead.node.TransferLeadership(context.Background(), next.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease to end", func() bool {
		_, ok := next.store.Lessor().Lookup(5)
		return !ok
	})
	if left := time.Since(start); left < 2*time.Second {
		t.Errorf("the lease ended %v after the new leader came", left)
	}
}

func TestWhatRestsOnLeadershipIsNotProposedByAFollower(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	term := lead.node.Status().Term
	lead.grant(5, 100)
	if err := lead.node.TransferLeadership(context.Background(), c.followers(lead)[0].id); err != nil {
		t.Fatal(err)
	}
	res := lead.node.proposeAll([]*pb.InternalRaftRequest{{LeaseRevoke: &pb.LeaseRevokeRequest{ID: 5}}}, term)
	if res[0].Err != ErrNotLeader {
		t.Errorf("the old leader's revocation: %v", res[0].Err)
	}
	if _, err := lead.node.confirmLeadership(context.Background()); err != ErrNotLeader {
		t.Errorf("the old leader confirmed its leadership: %v", err)
	}
}

func TestALeaderThatDidNotTickAsksTheOthers(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	if _, err := lead.node.confirmLeadership(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.followers(lead) {
		c.net.setCut(f.id, true)
	}
	// As after a pause: the last tick is long ago, and nobody answers.
	release := make(chan struct{})
	defer close(release)
	lead.node.in.call(func() { <-release })
	time.Sleep(10 * testTick)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := lead.node.confirmLeadership(ctx); err == nil {
		t.Error("leadership was confirmed without the others")
	}
}

func TestQuotaRefusesWhatGrowsTheStoreAndRaisesTheAlarm(t *testing.T) {
	m := newSingle(t, func(o *Options) { o.QuotaBytes = 1 << 20 })
	ctx := context.Background()
	value := strings.Repeat("v", 10000)
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		_, err = m.tryPut(ctx, fmt.Sprint(i), value)
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("a megabyte of quota took everything: %v", err)
	}
	alarms := m.store.Alarms(pb.AlarmType_NOSPACE)
	if len(alarms) != 1 || alarms[0].MemberID != 1 {
		t.Fatalf("alarms: %v", alarms)
	}
	rev := m.store.Revision()
	if _, err := m.tryPut(ctx, "k", "v"); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("with the alarm: %v", err)
	}
	res, err := m.node.Propose(ctx, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("0"), RangeEnd: []byte{0}}})
	if err != nil || res.Err != nil {
		t.Errorf("deleting: %v, %v", err, res.Err)
	}
	if got := m.store.Revision(); got != rev+1 {
		t.Errorf("revision %d, want %d", got, rev+1)
	}
	res, err = m.node.Propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev + 1}})
	if err != nil || res.Err != nil {
		t.Fatal(err, res.Err)
	}
	if err := m.store.DB().WaitCompacted(ctx, rev+1); err != nil {
		t.Fatal(err)
	}
	if err := m.store.DB().Reclaim(ctx); err != nil {
		t.Fatal(err)
	}
	res, err = m.node.Propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		MemberID: 1, Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}})
	if err != nil || res.Err != nil {
		t.Fatal(err, res.Err)
	}
	m.put("k", "v")
}

// smallDisk is a file system that says how much of it is free.
type smallDisk struct {
	vfs.FS
	free atomic.Uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free.Load(), TotalBytes: 1 << 40}, nil
}

func TestTheReserveIsGivenUpBeforeTheDiskIsFull(t *testing.T) {
	disk := &smallDisk{FS: vfs.NewMem()}
	disk.free.Store(1 << 30)
	const ballast = 3 << 20
	m := openMember(t, disk, 1).start(func(o *Options) { o.BallastBytes = ballast }).awaitReady()
	defer m.stop()
	there := func() bool {
		info, err := disk.Stat("data/ballast")
		return err == nil && info.Size() >= ballast
	}
	eventually(t, "the reserve", there)
	m.put("k", "v")

	disk.free.Store(ballast - 1)
	eventually(t, "the alarm", func() bool { return len(m.store.Alarms(pb.AlarmType_NOSPACE)) == 1 })
	if there() {
		t.Error("the reserve was not given up")
	}
	if _, err := m.tryPut(context.Background(), "k", "v"); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a write to a full disk: %v", err)
	}
	// Disarming helps only once there is space.
	disarm := func() {
		t.Helper()
		res, err := m.node.Propose(context.Background(), &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
			MemberID: 1, Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}})
		if err != nil || res.Err != nil {
			t.Fatal(err, res.Err)
		}
	}
	disarm()
	if _, err := m.tryPut(context.Background(), "k", "v"); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a write to a full disk after disarming: %v", err)
	}
	disk.free.Store(1 << 30)
	eventually(t, "the reserve again", func() bool { return there() && !m.node.reserve.low.Load() })
	disarm()
	m.put("k", "v")
}

func TestTheJournalIsCutBehindWhatIsDurable(t *testing.T) {
	base := vfs.NewCrashableMem()
	m := openMember(t, base, 1).start(func(o *Options) { o.SnapshotCount, o.CatchUpEntries = 50, 10 }).awaitReady()
	for i := range 300 {
		m.put(fmt.Sprint(i), strings.Repeat("v", 20000))
	}
	eventually(t, "the journal to be cut", func() bool { return m.journal.FirstIndex() > 200 })
	first := m.journal.FirstIndex() // before what is durable, which goes on growing
	durable, err := m.store.DB().DurableApplied()
	if err != nil {
		t.Fatal(err)
	}
	if first > durable+1 {
		t.Errorf("the journal begins at %d, durable is %d, applied %d", first, durable, m.node.Status().Applied)
	}
	a, ok := m.journal.Anchor()
	if !ok || a.DurableApplied+1 < first || a.KeyringGeneration != m.keyring.Generation() {
		t.Errorf("anchor: %+v, %v", a, ok)
	}
	crashed := base.CrashClone(vfs.CrashCloneCfg{})
	m.stop()
	m = openMember(t, crashed, 1).start().awaitReady()
	defer m.stop()
	for i := range 300 {
		if v, _ := m.get(fmt.Sprint(i)); len(v) != 20000 {
			t.Fatalf("%d has %d bytes", i, len(v))
		}
	}
}

func TestEntriesStayInTheJournalForMembersThatLag(t *testing.T) {
	for _, c := range []struct {
		state *raftpb.ConfState
		alone bool
	}{
		{&raftpb.ConfState{Voters: []uint64{1}}, true},
		{&raftpb.ConfState{}, false}, // it waits for its leader
		{&raftpb.ConfState{Voters: []uint64{1, 2}}, false},
		{&raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}, false},
		{&raftpb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{1, 2}}, false},
		{&raftpb.ConfState{Voters: []uint64{1}, LearnersNext: []uint64{2}}, false},
	} {
		if alone(c.state) != c.alone {
			t.Errorf("alone(%v) is %v", c.state, !c.alone)
		}
	}
}

func TestRotationLeavesNothingUnderTheOldKey(t *testing.T) {
	base := vfs.NewCrashableMem()
	m := openMember(t, base, 1).start().awaitReady()
	for i := range 50 {
		m.put(fmt.Sprint(i), strings.Repeat("v", 10000))
	}
	if err := m.store.DB().Flush(); err != nil {
		t.Fatal(err)
	}
	rev := m.store.Revision()
	old := m.keyring.Active()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			if _, err := m.tryPut(context.Background(), "busy", fmt.Sprint(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	id, err := m.node.RotateKeys(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if id == old || m.keyring.Active() != id {
		t.Errorf("active is %v, returned was %v, before it was %v", m.keyring.Active(), id, old)
	}
	// Half way, the power fails.
	crashed := base.CrashClone(vfs.CrashCloneCfg{})
	eventually(t, "the old key to be removed", func() bool { return stateOf(m.keyring, old) == keyring.Removed })
	stop.Store(true)
	wg.Wait()
	if m.store.Revision() < rev {
		t.Errorf("revision %d after the rotation, %d before", m.store.Revision(), rev)
	}
	eventually(t, "the journal to know of the keyring", func() bool {
		a, ok := m.journal.Anchor()
		return ok && a.KeyringGeneration == m.keyring.Generation()
	})
	m.stop()

	m = openMember(t, crashed, 1).start().awaitReady()
	defer m.stop()
	eventually(t, "the rotation to go on after the crash", func() bool { return stateOf(m.keyring, old) == keyring.Removed })
	for i := range 50 {
		if v, _ := m.get(fmt.Sprint(i)); len(v) != 10000 {
			t.Fatalf("%d has %d bytes", i, len(v))
		}
	}
}

func stateOf(kr *keyring.Keyring, id keyring.ID) keyring.State {
	for _, k := range kr.Keys() {
		if k.ID == id {
			return k.State
		}
	}
	return 0
}

// The anchor of a new keyring generation must not come between the anchor and
// the cut that rests on it, nor take the generation back.
func TestAnchorsOfRotationAndCutDoNotOvertakeEachOther(t *testing.T) {
	m := openMember(t, vfs.NewMem(), 1).start(func(o *Options) { o.SnapshotCount, o.CatchUpEntries = 1, 1 }).awaitReady()
	defer m.stop()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if _, err := m.keyring.Rotate(); err != nil {
				t.Error(err)
				return
			}
			generation := m.keyring.Generation()
			if err := m.node.recordKeyring(); err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if a, _ := m.journal.Anchor(); a.KeyringGeneration < generation {
					t.Errorf("the journal records generation %d, after %d", a.KeyringGeneration, generation)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
	for i := range 3000 {
		if _, err := m.tryPut(context.Background(), "k", fmt.Sprint(i)); err != nil {
			t.Fatalf("%v, as %v", err, m.node.Err())
		}
	}
	stop.Store(true)
	wg.Wait()
	if err := m.node.Err(); err != nil {
		t.Fatal(err)
	}
}
