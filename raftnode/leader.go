package raftnode

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

// leadership is what depends on who leads. Its lock orders changes of leader,
// which is seen in a turn at raft, with the beginning of a term, which the apply
// goroutine sees.
type leadership struct {
	mu      sync.Mutex
	changed chan struct{} // closed at the next change of leader
	elected time.Time     // when the present leader was first seen
	leads   uint64        // the term in which this member leads, else 0
	begun   bool          // everything before that term has been applied
}

// setLeader publishes who leads in which term. Called in a turn at raft, and at its end.
func (n *Node) setLeader(leader, term uint64) {
	oldLeader, oldTerm := n.leader.Load(), n.term.Load()
	if leader == oldLeader && term == oldTerm {
		return
	}
	n.failReads(ErrLeaderChanged)
	n.term.Store(term)
	n.leader.Store(leader)
	if oldLeader == n.o.ID {
		n.expire(time.Time{})
	}

	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leads != 0 {
		l.leads, l.begun = 0, false
		n.o.Store.Lessor().Demote()
	}
	if leader == n.o.ID {
		l.leads = term
	}
	if leader == oldLeader {
		return
	}
	setBool(hasLeader, leader != 0)
	setBool(isLeader, leader == n.o.ID)
	if leader != 0 {
		leaderChanges.Inc()
		l.elected = time.Now()
		n.lg.Info("the cluster has a leader", zap.String("leader", idString(leader)), zap.Uint64("term", term))
	} else {
		n.lg.Info("the cluster has lost its leader", zap.String("leader", idString(oldLeader)), zap.Uint64("term", term))
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// beginTerm tells that the first entry of a term has been applied, and with it
// everything from earlier terms. From then on a leader's clock runs. Called by
// the apply goroutine.
func (n *Node) beginTerm(term uint64) {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leads == term && !l.begun {
		l.begun = true
		n.o.Store.Lessor().Promote(n.electionTimeout())
	}
}

// leadsIn returns the term in which this member leads and has begun to, else 0.
func (n *Node) leadsIn() uint64 {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun {
		return 0
	}
	return l.leads
}

func (n *Node) electedAt() time.Time {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.elected
}

// LeaderChanged returns a channel that is closed at the next change of leader,
// its loss included.
func (n *Node) LeaderChanged() <-chan struct{} {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// confirmLeadership returns the term in which this member leads, or
// ErrNotLeader. A member that has ticked just now would know if it had been
// deposed; one that was paused, or starved, asks the others first.
func (n *Node) confirmLeadership(ctx context.Context) (uint64, error) {
	if time.Since(time.Unix(0, n.lastTick.Load())) >= 3*n.o.Tick {
		if err := n.ReadIndex(ctx); err != nil {
			return 0, err
		}
	}
	if term := n.leadsIn(); term != 0 {
		return term, nil
	}
	return 0, ErrNotLeader
}

// waitLeader returns the leader as soon as there is one, or ErrNoLeader.
func (n *Node) waitLeader(ctx context.Context) (uint64, error) {
	for {
		changed := n.LeaderChanged()
		if leader := n.leader.Load(); leader != 0 {
			return leader, nil
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return 0, ErrStopped
		case <-ctx.Done():
			return 0, ErrNoLeader
		}
	}
}

// TransferLeadership hands leadership to a voting member and returns when it
// leads. Only the leader can do this.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	if n.leader.Load() != n.o.ID {
		return ErrNotLeader
	}
	if m := n.o.Store.Member(to); m == nil || m.IsLearner {
		return ErrBadLeaderTransferee
	}
	ctx, cancel := context.WithTimeout(ctx, n.RequestTimeout())
	defer cancel()
	start := time.Now()
	n.lg.Info("leadership transfer starting", zap.String("transferee", idString(to)))
	n.in.call(func() { n.rn.TransferLeader(to) })
	for {
		changed := n.LeaderChanged()
		switch leader := n.leader.Load(); leader {
		case to:
			n.lg.Info("leadership transfer finished", zap.String("transferee", idString(to)), zap.Duration("took", time.Since(start)))
			return nil
		case n.o.ID, 0:
		default:
			return ErrLeaderChanged
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return ErrStopped
		case <-ctx.Done():
			return ErrTimeoutLeaderTransfer
		}
	}
}

// handOver gives leadership, before the node stops, to the voting member that
// has been reachable for longest, if there is one.
func (n *Node) handOver(ctx context.Context) {
	if n.leader.Load() != n.o.ID || n.o.Transport == nil {
		return
	}
	var to uint64
	var since time.Time
	for _, m := range n.o.Store.Members() {
		if m.ID == n.o.ID || m.IsLearner {
			continue
		}
		if t := n.o.Transport.ActiveSince(m.ID); !t.IsZero() && (to == 0 || t.Before(since)) {
			to, since = m.ID, t
		}
	}
	if to == 0 {
		return
	}
	// raft gives a transfer up after one election timeout.
	ctx, cancel := context.WithTimeout(ctx, n.electionTimeout())
	defer cancel()
	if err := n.TransferLeadership(ctx, to); err != nil {
		n.lg.Warn("could not hand over leadership", zap.String("transferee", idString(to)), zap.Error(err))
	}
}
