package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/store"
)

func TestThreeMembersAgree(t *testing.T) {
	c := newCluster(t, 3)
	for i, m := range c.members {
		m.put(fmt.Sprintf("k%d", i), "v") // followers forward
	}
	for _, m := range c.members {
		if err := m.node.ReadIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
		for i := range c.members {
			if v, _ := m.get(fmt.Sprintf("k%d", i)); v != "v" {
				t.Errorf("member %d has %q for k%d", m.id, v, i)
			}
		}
		if len(m.store.Members()) != 3 {
			t.Errorf("member %d knows of %d members", m.id, len(m.store.Members()))
		}
	}
}

// The leader that is cut off must not answer reads from before what the others
// have agreed on since.
func TestAReadNeverMissesWhatAnotherLeaderAcknowledged(t *testing.T) {
	c := newCluster(t, 3)
	for round := range 5 {
		old := c.leader()
		old.put("k", fmt.Sprint(round))
		c.net.setCut(old.id, true)
		// Reads that come in while the old leader still believes to lead.
		var stop atomic.Bool
		var wg sync.WaitGroup
		var newest atomic.Int64
		newest.Store(int64(round))
		for range 4 {
			wg.Go(func() {
				for !stop.Load() {
					least := newest.Load()
					ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
					err := old.node.ReadIndex(ctx)
					cancel()
					if err != nil {
						continue
					}
					v, _ := old.get("k")
					var got int64
					fmt.Sscan(v, &got)
					if got < least {
						t.Errorf("a read returned %d after %d was acknowledged", got, least)
					}
				}
			})
		}
		next := c.leader(old.id)
		next.put("k", fmt.Sprint(round+100))
		newest.Store(int64(round + 100))
		time.Sleep(5 * testTick)
		c.net.setCut(old.id, false)
		eventually(t, "the old leader to follow", func() bool { return old.node.Status().Leader == next.node.Status().Leader })
		if err := old.node.ReadIndex(context.Background()); err != nil && err != ErrLeaderChanged {
			t.Error(err)
		}
		stop.Store(true)
		wg.Wait()
		next.put("k", fmt.Sprint(round+1))
	}
}

func TestAReadRoundIsSentAgainWhenItsAnswerIsLost(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	f := c.followers(lead)[0]
	var lost atomic.Int32
	c.net.setDrop(func(m *raftpb.Message) bool {
		return m.GetType() == raftpb.MsgReadIndexResp && lost.Add(1) == 1
	})
	if err := f.node.ReadIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	if lost.Load() < 2 {
		t.Error("the round was answered although its answer was lost")
	}
}

// The answer to a round of a process that is no more may reach the next one.
func TestAnAnswerToARoundFromBeforeARestartIsNotTakenForAnother(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	f := c.followers(lead)[0]
	eventually(t, "all members to have published their names", func() bool { return countStarted(lead.store.Members()) == 3 })
	var late atomic.Pointer[raftpb.Message] // answers the first round ever
	c.net.setDrop(func(m *raftpb.Message) bool {
		if m.GetType() != raftpb.MsgReadIndexResp || m.GetTo() != f.id {
			return false
		}
		late.CompareAndSwap(nil, m)
		return true
	})
	ctx, cancel := context.WithCancel(context.Background())
	go f.node.ReadIndex(ctx)
	eventually(t, "the answer", func() bool { return late.Load() != nil })
	cancel()
	f.stop()
	lead.put("k", "v")

	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	f.start(func(o *Options) {
		o.Bootstrap = nil
		o.Transport = link{c.net, f.id}
	})
	// It learns of the leader, but nothing new from it.
	c.net.setDrop(func(m *raftpb.Message) bool {
		return m.GetTo() == f.id && (m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgReadIndexResp)
	})
	c.net.join(f.id, f.node)
	eventually(t, "the leader to be known", func() bool { return f.node.Status().Leader == lead.id })
	read := make(chan error, 1)
	go func() { read <- f.node.ReadIndex(context.Background()) }()
	eventually(t, "the round to be sent", func() bool {
		n := make(chan int, 1)
		f.node.in.call(func() { n <- len(f.node.rounds) })
		return <-n > 0
	})
	if err := f.node.Step(late.Load()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		v, _ := f.get("k")
		t.Fatalf("a read ended with %v and finds %q, though v was acknowledged", err, v)
	case <-time.After(3 * testTick):
	}
	c.net.setDrop(nil)
	if err := <-read; err != nil {
		t.Error(err)
	} else if v, _ := f.get("k"); v != "v" {
		t.Errorf("a read finds %q", v)
	}
}

func TestALeaderChangeFailsReadRounds(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	c.net.setDrop(func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgHeartbeatResp && len(m.GetContext()) > 0 })
	failed := make(chan error, 1)
	go func() { failed <- lead.node.ReadIndex(context.Background()) }()
	eventually(t, "the round to be sent", func() bool {
		n := make(chan int, 1)
		lead.node.in.call(func() { n <- len(lead.node.rounds) })
		return <-n > 0
	})
	if err := lead.node.TransferLeadership(context.Background(), c.followers(lead)[0].id); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != ErrLeaderChanged {
		t.Errorf("got %v", err)
	}
}

func TestLeadershipGoesOnlyToVoters(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	if err := lead.node.TransferLeadership(context.Background(), 99); err != ErrBadLeaderTransferee {
		t.Errorf("to nobody: %v", err)
	}
	f := c.followers(lead)
	if err := f[0].node.TransferLeadership(context.Background(), f[1].id); err != ErrNotLeader {
		t.Errorf("by a follower: %v", err)
	}
	changed := f[1].node.LeaderChanged()
	if err := lead.node.TransferLeadership(context.Background(), f[0].id); err != nil {
		t.Fatal(err)
	}
	<-changed
	if got := c.leader(); got != f[0] {
		t.Errorf("member %d leads, want %d", got.id, f[0].id)
	}
}

func TestMembershipChangesOfOneMember(t *testing.T) {
	m := newSingle(t)
	ctx := context.Background()

	// A learner does not count in the quorum.
	learner, members, err := m.node.MemberAdd(ctx, []string{peerURL(2)}, true)
	if err != nil || len(members) != 2 || !learner.IsLearner {
		t.Fatalf("adding a learner: %v, %v", members, err)
	}
	m.put("k", "v")
	if _, _, err := m.node.MemberAdd(ctx, []string{peerURL(2)}, true); !errors.Is(err, store.ErrPeerURLExists) && !errors.Is(err, store.ErrMemberExists) {
		t.Errorf("adding the same URL: %v", err)
	}
	if _, _, err := m.node.MemberAdd(ctx, []string{peerURL(3)}, true); !errors.Is(err, store.ErrTooManyLearners) {
		t.Errorf("adding another learner: %v", err)
	}
	if _, err := m.node.MemberPromote(ctx, learner.ID); err != ErrLearnerNotReady {
		t.Errorf("promoting a learner that never started: %v", err)
	}
	if _, err := m.node.MemberPromote(ctx, 99); !errors.Is(err, store.ErrMemberNotFound) {
		t.Errorf("promoting nobody: %v", err)
	}
	if _, err := m.node.MemberPromote(ctx, 1); !errors.Is(err, store.ErrNotLearner) {
		t.Errorf("promoting a voter: %v", err)
	}
	members, err = m.node.MemberUpdate(ctx, learner.ID, []string{peerURL(4)})
	if err != nil || !slices.ContainsFunc(members, func(x *pb.Member) bool { return x.ID == learner.ID && x.PeerURLs[0] == peerURL(4) }) {
		t.Errorf("updating: %v, %v", members, err)
	}
	if _, err := m.node.MemberUpdate(ctx, 99, []string{peerURL(5)}); !errors.Is(err, store.ErrMemberNotFound) {
		t.Errorf("updating nobody: %v", err)
	}
	if members, err = m.node.MemberRemove(ctx, learner.ID); err != nil || len(members) != 1 {
		t.Errorf("removing the learner: %v, %v", members, err)
	}
	if _, err := m.node.MemberRemove(ctx, learner.ID); !errors.Is(err, store.ErrMemberRemoved) {
		t.Errorf("removing it again: %v", err)
	}
	if _, err := m.node.MemberRemove(ctx, 1); err != ErrNotEnoughStartedMembers {
		t.Errorf("removing the only member: %v", err)
	}
	if ms, err := m.node.Members(ctx, true); err != nil || len(ms) != 1 {
		t.Errorf("members: %v, %v", ms, err)
	}

	// A second voter counts at once, although it does not run.
	if _, members, err = m.node.MemberAdd(ctx, []string{peerURL(6)}, false); err != nil || len(members) != 2 {
		t.Fatalf("adding a voter: %v, %v", members, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := m.tryPut(short, "k", "v"); err == nil {
		t.Error("a write without a quorum was acknowledged")
	}
	eventually(t, "the leader to notice that it has no quorum", func() bool { return m.node.Status().Leader == 0 })
	if _, _, err := m.node.MemberAdd(short, []string{peerURL(7)}, false); err != ErrNotEnoughStartedMembers {
		t.Errorf("adding a third voter while the second never started: %v", err)
	}
}

func TestChecksOfMembershipChangesCanBeSwitchedOff(t *testing.T) {
	m := newSingle(t, func(o *Options) { o.DisableStrictReconfigCheck = true })
	if _, err := m.node.MemberRemove(context.Background(), 1); !errors.Is(err, store.ErrLastVoter) {
		t.Errorf("removing the only member: %v", err)
	}
}

func TestAnUnhealthyClusterIsNotChanged(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	ctx := context.Background()
	eventually(t, "all members to have published their names", func() bool { return countStarted(lead.store.Members()) == 3 })
	f := c.followers(lead)
	c.net.setCut(f[0].id, true)
	if _, _, err := lead.node.MemberAdd(ctx, []string{peerURL(9)}, false); err != ErrUnhealthy {
		t.Errorf("adding a voter to a cluster in which one of three is down: %v", err)
	}
	if _, err := lead.node.MemberRemove(ctx, f[1].id); err != ErrUnhealthy {
		t.Errorf("removing one that works: %v", err)
	}
	members, err := lead.node.MemberRemove(ctx, f[0].id)
	if err != nil || len(members) != 2 {
		t.Errorf("removing the one that is down: %v, %v", members, err)
	}
}

func TestARemovedMemberEnds(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader()
	f := c.followers(lead)[0]
	eventually(t, "all members to have published their names", func() bool { return countStarted(lead.store.Members()) == 3 })
	if _, err := lead.node.MemberRemove(context.Background(), f.id); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.node.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the removed member goes on")
	}
	if err := f.node.Err(); err != ErrRemoved {
		t.Errorf("it ended with %v", err)
	}
	f.node.Stop(context.Background())
	if err := f.tryStart(); !errors.Is(err, ErrRemoved) {
		t.Errorf("it was started again: %v", err)
	}
	f.node = nil
	err := lead.node.Step(&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: &f.id, To: &lead.id})
	if err == nil {
		t.Error("a message from the removed member was taken in")
	}
}

func TestALearnerJoinsCatchesUpAndIsPromoted(t *testing.T) {
	c := newCluster(t, 1)
	lead := c.leader()
	ctx := context.Background()
	lead.put("k", "v")
	learner, _, err := lead.node.MemberAdd(ctx, []string{peerURL(2)}, true)
	if err != nil {
		t.Fatal(err)
	}
	m := openMember(t, vfs.NewMem(), learner.ID)
	m.start(func(o *Options) {
		o.Bootstrap = nil
		o.Transport = link{c.net, learner.ID}
	})
	c.net.join(learner.ID, m.node)
	t.Cleanup(m.stop)
	m.awaitReady()
	if !m.node.Status().IsLearner {
		t.Error("it does not know that it is a learner")
	}
	if v, _ := m.get("k"); v != "v" {
		t.Errorf("it has %q", v)
	}
	eventually(t, "the promotion", func() bool {
		_, err := lead.node.MemberPromote(ctx, learner.ID)
		return err == nil
	})
	eventually(t, "the learner to know", func() bool { return !m.node.Status().IsLearner })
	m.put("k", "w")
}

func TestAFollowerHoldsItsMessagesUntilConfigurationsAreApplied(t *testing.T) {
	var sent []*raftpb.Message
	n := &Node{o: Options{ID: 1, Transport: sendFunc(func(ms []*raftpb.Message) { sent = append(sent, ms...) })}}
	n.held = []*raftpb.Message{{To: new(uint64(2))}}
	n.applyingConfs = 1
	if n.send(); len(sent) != 0 {
		t.Error("sent before the change was applied")
	}
	n.applyingConfs = 0
	if n.send(); len(sent) != 1 || len(n.held) != 0 {
		t.Error("not sent after the change was applied")
	}
}

type sendFunc func([]*raftpb.Message)

func (f sendFunc) Send(ms []*raftpb.Message)    { f(ms) }
func (f sendFunc) ActiveSince(uint64) time.Time { return time.Time{} }
