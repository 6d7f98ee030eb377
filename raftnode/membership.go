package raftnode

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/store"
)

const (
	// healthyFor is how long a member must have been connected to count as
	// healthy when the membership is changed.
	healthyFor = 5 * time.Second
	// learnerReady is the part of the leader's log that a learner must have
	// to be promoted.
	learnerReady = 0.9
)

// Members returns the members of the cluster by id; linearizable waits for a
// read index first. They must not be changed.
func (n *Node) Members(ctx context.Context, linearizable bool) ([]*pb.Member, error) {
	if linearizable {
		if err := n.ReadIndex(ctx); err != nil {
			return nil, err
		}
	}
	return n.o.Store.Members(), nil
}

// MemberAdd adds a member that has not started yet and returns it and all
// members. Its id follows from its peer URLs and the time.
func (n *Node) MemberAdd(ctx context.Context, peerURLs []string, learner bool) (*pb.Member, []*pb.Member, error) {
	m := &pb.Member{
		ID:        store.AddedMemberID(peerURLs, "", time.Now().Unix()),
		PeerURLs:  peerURLs,
		IsLearner: learner,
	}
	if err := n.mayAdd(m); err != nil {
		return nil, nil, n.refused("add", m.ID, err)
	}
	cc, err := store.AddMember(n.NextID(), m)
	if err != nil {
		return nil, nil, err
	}
	members, err := n.configure(ctx, cc)
	if err != nil {
		return nil, nil, err
	}
	return m, members, nil
}

// MemberRemove removes a member for ever and returns those that are left.
func (n *Node) MemberRemove(ctx context.Context, id uint64) ([]*pb.Member, error) {
	if err := n.mayRemove(id); err != nil {
		return nil, n.refused("remove", id, err)
	}
	return n.configure(ctx, store.RemoveMember(n.NextID(), id))
}

// MemberUpdate changes a member's peer URLs and returns all members.
func (n *Node) MemberUpdate(ctx context.Context, id uint64, peerURLs []string) ([]*pb.Member, error) {
	cc, err := store.UpdateMember(n.NextID(), &pb.Member{ID: id, PeerURLs: peerURLs})
	if err != nil {
		return nil, err
	}
	return n.configure(ctx, cc)
}

// MemberPromote makes a learner that has caught up a voting member and returns
// all members. Only the leader knows how far a learner is.
func (n *Node) MemberPromote(ctx context.Context, id uint64) ([]*pb.Member, error) {
	members, err := n.promote(ctx, id)
	switch {
	case err == nil:
		learnerPromoteSuccesses.Inc()
	case !errors.Is(err, ErrNotLeader):
		learnerPromoteFailures.WithLabelValues(err.Error()).Inc()
	}
	return members, err
}

func (n *Node) promote(ctx context.Context, id uint64) ([]*pb.Member, error) {
	if err := n.mayPromote(ctx, id); err != nil {
		return nil, n.refused("promote", id, err)
	}
	return n.configure(ctx, store.PromoteMember(n.NextID(), id))
}

func (n *Node) refused(what string, id uint64, err error) error {
	n.lg.Warn("rejecting member "+what+" request", zap.String("member", idString(id)), zap.Error(err))
	return err
}

// mayAdd protects the quorum that there is. A voter counts in the quorum at
// once, although it has not even started.
func (n *Node) mayAdd(m *pb.Member) error {
	if n.o.DisableStrictReconfigCheck {
		return nil
	}
	voters := n.voters()
	if !m.IsLearner {
		// A single member may be joined by a second one whatever its state:
		// that is how a restored cluster grows again.
		started, total := countStarted(voters), len(voters)+1
		if !(started == 1 && total == 2) && started < total/2+1 {
			return ErrNotEnoughStartedMembers
		}
	}
	connected := n.countConnected(voters, time.Now().Add(-healthyFor))
	if connected < (len(voters)+1)/2+1 && len(voters) > 1 {
		return ErrUnhealthy
	}
	return nil
}

func (n *Node) mayRemove(id uint64) error {
	if n.o.DisableStrictReconfigCheck {
		return nil
	}
	if m := n.o.Store.Member(id); m != nil && m.IsLearner {
		return nil
	}
	voters := n.voters()
	left := slices.DeleteFunc(slices.Clone(voters), func(m *pb.Member) bool { return m.ID == id })
	if countStarted(left) < len(left)/2+1 {
		return ErrNotEnoughStartedMembers
	}
	if id != n.o.ID && n.activeSince(id).IsZero() {
		return nil // it is not part of the quorum that works
	}
	connected := n.countConnected(voters, time.Now().Add(-healthyFor))
	if connected-1 < 1+(len(voters)-1)/2 {
		return ErrUnhealthy
	}
	return nil
}

func (n *Node) mayPromote(ctx context.Context, id uint64) error {
	if err := n.WaitApplied(ctx); err != nil {
		return err
	}
	st, err := n.raftStatus(ctx)
	if err != nil {
		return err
	}
	if st.RaftState != raft.StateLeader {
		return ErrNotLeader
	}
	learner, ok := st.Progress[id]
	if !ok {
		return store.ErrMemberNotFound
	}
	if float64(learner.Match) < learnerReady*float64(st.Progress[n.o.ID].Match) {
		return ErrLearnerNotReady
	}
	if n.o.DisableStrictReconfigCheck {
		return nil
	}
	voters := n.voters()
	if countStarted(voters)+1 < (len(voters)+1)/2+1 {
		return ErrNotEnoughStartedMembers
	}
	return nil
}

// raftStatus asks raft for all it knows.
func (n *Node) raftStatus(ctx context.Context) (raft.Status, error) {
	status := make(chan raft.Status, 1)
	n.in.call(func() { status <- n.rn.Status() })
	select {
	case s := <-status:
		return s, nil
	case <-n.raftEnded:
		return raft.Status{}, ErrStopped
	case <-ctx.Done():
		return raft.Status{}, ctx.Err()
	}
}

func (n *Node) voters() []*pb.Member {
	return slices.DeleteFunc(slices.Clone(n.o.Store.Members()), func(m *pb.Member) bool { return m.IsLearner })
}

// countStarted counts the members that have published their name.
func countStarted(members []*pb.Member) int {
	started := 0
	for _, m := range members {
		if m.Name != "" {
			started++
		}
	}
	return started
}

func (n *Node) activeSince(id uint64) time.Time {
	if n.o.Transport == nil {
		return time.Time{}
	}
	return n.o.Transport.ActiveSince(id)
}

// connectedSince reports whether messages to a member have been getting through
// since then. This member always reaches itself.
func (n *Node) connectedSince(id uint64, since time.Time) bool {
	if id == n.o.ID {
		return true
	}
	t := n.activeSince(id)
	return !t.IsZero() && t.Before(since)
}

func (n *Node) countConnected(members []*pb.Member, since time.Time) int {
	connected := 0
	for _, m := range members {
		if n.connectedSince(m.ID, since) {
			connected++
		}
	}
	return connected
}

func (n *Node) connectedToQuorumSince(since time.Time) bool {
	voters := n.voters()
	return n.countConnected(voters, since) >= len(voters)/2+1
}

// confWaits holds who waits for configuration changes, by the change's id.
type confWaits struct {
	mu    sync.Mutex
	waits map[uint64]*confWait
	err   error // set by abort
}

type confWait struct {
	done    chan struct{}
	members []*pb.Member
	err     error
}

func (c *confWaits) add(id uint64) (*confWait, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	w := &confWait{done: make(chan struct{})}
	c.waits[id] = w
	return w, nil
}

// finish ends a wait; nobody may be waiting.
func (c *confWaits) finish(id uint64, members []*pb.Member, err error) {
	c.mu.Lock()
	w := c.waits[id]
	delete(c.waits, id)
	c.mu.Unlock()
	if w != nil {
		w.members, w.err = members, err
		close(w.done)
	}
}

func (c *confWaits) abort(err error) {
	c.mu.Lock()
	c.err = err
	waits := c.waits
	c.waits = nil
	c.mu.Unlock()
	for _, w := range waits {
		w.err = err
		close(w.done)
	}
}

// configure replicates a configuration change and returns the members after
// this member has applied it.
func (n *Node) configure(ctx context.Context, cc *raftpb.ConfChange) ([]*pb.Member, error) {
	data, err := proto.Marshal(cc)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, n.RequestTimeout())
	defer cancel()
	w, err := n.confs.add(cc.GetId())
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(n.o.Tick)
	defer retry.Stop()
	for proposed := false; ; {
		if !proposed {
			if proposed, err = n.proposeConf(ctx, data); err != nil {
				n.confs.finish(cc.GetId(), nil, err)
			}
		}
		select {
		case <-w.done:
			if w.err == nil {
				n.lg.Info("applied a configuration change through raft",
					zap.Stringer("change", cc.GetType()), zap.String("member", idString(cc.GetNodeId())))
			}
			return w.members, w.err
		case <-ctx.Done():
			n.confs.finish(cc.GetId(), nil, n.proposeError(ctx.Err(), start))
		case <-retry.C:
		}
	}
}

// proposeConf hands a configuration change to raft. It reports false if raft
// did not take it, as there is no leader, or the change before has not been
// applied yet.
func (n *Node) proposeConf(ctx context.Context, data []byte) (bool, error) {
	taken := make(chan bool, 1)
	n.in.call(func() {
		e := &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: data}
		m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.o.ID), Entries: []*raftpb.Entry{e}}
		err := n.rn.Step(m)
		// A leader that cannot take the change puts an empty entry in its place.
		taken <- err == nil && m.Entries[0] == e
	})
	select {
	case ok := <-taken:
		return ok, nil
	case <-n.raftEnded:
		return false, ErrStopped
	case <-ctx.Done():
		return false, nil
	}
}

// finishConf answers whoever waits for a configuration change that has been
// applied. Called in a turn at raft.
func (n *Node) finishConf(r store.EntryResult) {
	c := r.ConfChange
	n.confs.finish(r.ID, c.Members, c.Err)
	if c.Err == nil && c.Type == raftpb.ConfChangeRemoveNode && c.NodeID == n.o.ID {
		n.lg.Warn("this member has been removed from the cluster and stops")
		// Those that are left have a second to learn of it from this member.
		time.AfterFunc(time.Second, func() { n.fail(ErrRemoved) })
	}
}
