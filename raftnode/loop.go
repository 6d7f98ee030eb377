package raftnode

import (
	"errors"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/store"
)

// maxApplyingBytes bounds the entries that are handed to the apply goroutine
// and not yet applied.
const maxApplyingBytes = 8 << 20

// runRaft is the raft goroutine. It ticks, and takes a turn whenever something
// has come in. The append goroutine takes turns as well, but never while it
// writes: so a member ticks and answers whatever writing takes.
func (n *Node) runRaft(hs *raftpb.HardState, started chan<- error) {
	defer n.endRaft()
	var err error
	n.rn, err = raft.NewRawNode(&raft.Config{
		ID:                       n.o.ID,
		ElectionTick:             n.o.ElectionTicks,
		HeartbeatTick:            1,
		Storage:                  &raftStorage{n: n, initial: hs},
		Applied:                  n.raftApplied.Load(),
		AsyncStorageWrites:       true,
		MaxSizePerMsg:            maxBatchBytes,
		MaxCommittedSizePerReady: maxApplyingBytes,
		// Far more than is gathered while one append is under way: a bound for
		// a leader that has lost its quorum and not noticed yet.
		MaxUncommittedEntriesSize: 256 << 20,
		MaxInflightMsgs:           512,
		CheckQuorum:               true,
		PreVote:                   !n.o.DisablePreVote,
		ReadOnlyOption:            raft.ReadOnlySafe,
		StepDownOnRemoval:         true,
		Logger:                    &raftLogger{n.lg.Sugar(), n.die},
	})
	started <- err
	if err != nil {
		return
	}
	ticker := time.NewTicker(n.o.Tick)
	defer ticker.Stop()
	stopping := n.ctx.Done()
	for ok := true; ok; {
		select {
		case <-n.in.wake:
			ok = n.turn(nil)
		case now := <-ticker.C:
			ok = n.turn(func() { n.tick(now) })
		case <-stopping:
			// Nobody waits for an outcome any more, but the apply goroutine
			// may still wait for a configuration change to be taken in.
			stopping = nil
			ok = n.turn(n.refuse)
		case <-n.storingEnded:
			return
		}
	}
}

// turn does first, gives raft what came in, and does what raft wants done. It
// waits for no other goroutine, and for the disk only to read entries that are
// no longer in memory, for a member that has fallen behind. It reports false if
// raft has ended.
func (n *Node) turn(first func()) bool {
	n.turning.Lock()
	defer n.turning.Unlock()
	if n.rnEnded {
		return false
	}
	if first != nil {
		first()
	}
	n.takeIn(n.in.take())
	if n.refusing {
		return true
	}
	n.campaignIfSole()
	n.submit()
	n.startReads()
	for n.rn.HasReady() {
		n.handle(n.rn.Ready())
		n.startReads()
	}
	n.send()
	n.in.expect(n.expected())
	n.applyHere = false
	return true
}

// expected says who is to be woken for the proposals that come in after this
// turn, and when: the raft goroutine to forward them, the append goroutine to
// write them; not for each one while they cannot be handed to raft anyway.
// Reports of the apply goroutine need a turn only if raft holds something back
// for them; else they can wait for the next one.
func (n *Node) expected() (proposals int, appender, reports bool) {
	leader, commit := n.leader.Load(), n.commit.Load()
	switch {
	case leader != n.o.ID:
		return 1, false, leader == 0 || n.handed < commit
	case n.appending > 0:
		proposals = math.MaxInt // a turn follows the append
	default:
		proposals = n.group.missing(len(n.waiting))
	}
	return proposals, true, n.handed < commit
}

// refuse fails all that waits, and all that would come.
func (n *Node) refuse() {
	n.refusing = true
	proposals, round := n.in.close()
	for _, p := range slices.Concat(n.waiting, proposals) {
		p.finish(store.Result{}, ErrStopped)
	}
	n.waiting = nil
	if round != nil {
		round.finish(ErrStopped)
	}
	n.failReads(ErrStopped)
	n.appliedWaits.abort(ErrStopped)
	n.pending.abort(ErrStopped)
	n.confs.abort(ErrStopped)
}

// endRaft runs when the raft goroutine ends, be it in the midst of its work.
func (n *Node) endRaft() {
	n.stop()
	n.turning.Lock()
	n.rnEnded = true
	n.refuse()
	n.turning.Unlock()
	n.setLeader(0, n.term.Load())
	close(n.raftEnded)
}

// tick moves raft's clock on and gives up what has waited for too long.
func (n *Node) tick(now time.Time) {
	n.lastTick.Store(now.UnixNano())
	n.rn.Tick()
	n.tickReads(now)
	n.expire(now.Add(-n.RequestTimeout()))
}

// expire fails the proposals that have waited since before the deadline, and
// those for a term that is over. Whose caller is gone is forgotten.
func (n *Node) expire(deadline time.Time) {
	leads := n.leads()
	n.pending.expire(deadline, leads, n.expireError)
	n.waiting = slices.DeleteFunc(n.waiting, func(p *proposal) bool {
		if p.expired(deadline, leads) {
			p.finish(store.Result{}, n.expireError(p))
		}
		return p.answered.Load()
	})
}

// takeIn gives raft what came in.
func (n *Node) takeIn(w work) {
	for _, s := range w.stored {
		n.takeInStored(s)
	}
	for _, m := range w.messages {
		n.step(m)
	}
	for _, call := range w.calls {
		call()
	}
	n.waiting = append(n.waiting, w.proposals...)
}

func (n *Node) takeInStored(s stored) {
	n.appending -= s.appends
	n.applyingConfs -= s.confs
	for _, m := range s.responses {
		if to := m.GetTo(); to != n.o.ID {
			n.held = append(n.held, m)
			continue
		}
		n.step(m)
		if m.GetType() == raftpb.MsgStorageApplyResp {
			// After raft was told, as the journal may be cut up to here at once.
			es := m.GetEntries()
			n.raftApplied.Store(es[len(es)-1].GetIndex())
		}
	}
	if s.after != nil {
		s.after()
	}
}

func (n *Node) step(m *raftpb.Message) {
	if err := n.rn.Step(m); err != nil {
		n.lg.Debug("raft refused a message",
			zap.Stringer("type", m.GetType()), zap.String("from", idString(m.GetFrom())), zap.Error(err))
	}
}

// campaignIfSole makes a member that is the only voter leader at once: it has
// nobody to wait for. Committed entries are applied first, as they may hold
// another configuration.
func (n *Node) campaignIfSole() {
	if n.sole && n.leader.Load() == 0 && n.state == raft.StateFollower && n.raftApplied.Load() == n.commit.Load() {
		if err := n.rn.Campaign(); err != nil {
			n.lg.Warn("could not campaign", zap.Error(err))
		}
	}
}

// submit hands waiting proposals to raft: as leader when no append is under
// way, so that what comes in while one is being synced shares the next entry.
func (n *Node) submit() {
	leader := n.leader.Load()
	if len(n.waiting) == 0 || leader == 0 {
		return
	}
	if leader == n.o.ID {
		if n.appending > 0 || n.rn.BasicStatus().RaftState != raft.StateLeader {
			return // or it has just ceased to lead, which the next Ready will tell
		}
		if n.group.hold(len(n.waiting)) {
			return
		}
	}
	batches := n.gather(n.waiting)
	m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.o.ID)}
	kept := batches[:0]
	requests := 0
	for _, b := range batches {
		data, err := store.EncodeBatch(b.id, b.requests)
		if err != nil {
			for _, p := range b.proposals {
				p.finish(store.Result{}, err)
			}
			continue
		}
		kept = append(kept, b)
		requests += len(b.requests)
		batchRequests.Observe(float64(len(b.requests)))
		n.pending.add(b)
		m.Entries = append(m.Entries, &raftpb.Entry{Data: data})
	}
	if len(kept) > 0 {
		if err := n.rn.Step(m); errors.Is(err, raft.ErrProposalDropped) {
			// Leadership is being handed over, or too much is uncommitted:
			// nothing was appended, and all wait for better times.
			for _, b := range kept {
				n.pending.take(b.id)
			}
			return
		} else if err != nil {
			for _, b := range kept {
				n.pending.take(b.id)
				for _, p := range b.proposals {
					p.finish(store.Result{}, err)
				}
			}
		}
	}
	n.group.sent = requests
	n.waiting = nil
}

// handle does what raft wants done.
func (n *Node) handle(rd raft.Ready) {
	lead, term := n.leader.Load(), n.term.Load()
	if ss := rd.SoftState; ss != nil {
		lead, n.state = ss.Lead, ss.RaftState
	}
	if hs := rd.HardState; !raft.IsEmptyHardState(hs) {
		term = hs.GetTerm()
		n.commit.Store(hs.GetCommit())
		proposalsCommitted.Set(float64(hs.GetCommit()))
	}
	n.setLeader(lead, term)
	for _, rs := range rd.ReadStates {
		n.confirmRead(rs)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			if len(m.GetEntries()) > 0 {
				n.appending++
			}
			// That a leader's commit index has moved is written with its next
			// entries: nothing waits for it.
			n.appends.put(m, n.state != raft.StateLeader || len(m.GetEntries())+len(m.GetResponses()) > 0)
		case raft.LocalApplyThread:
			es := m.GetEntries()
			n.committedTerm = es[len(es)-1].GetTerm()
			n.handed = es[len(es)-1].GetIndex()
			if hasConfChange(es) {
				n.applyingConfs++
			}
			n.applies.put(m, !n.applyHere)
		default:
			n.held = append(n.held, m)
		}
	}
}

// send sends what is held. A member that does not lead first applies the
// configuration changes that are under way: it must not count votes, or answer,
// by a configuration that it knows to be past.
func (n *Node) send() {
	if len(n.held) == 0 || (n.applyingConfs > 0 && n.state != raft.StateLeader) {
		return
	}
	ms := n.held
	n.held = nil
	var unreachable []uint64
	kept := ms[:0]
	for _, m := range ms {
		to := m.GetTo()
		if m.GetType() == raftpb.MsgSnap || n.o.Transport == nil {
			if !slices.Contains(unreachable, to) {
				unreachable = append(unreachable, to)
			}
			if m.GetType() == raftpb.MsgSnap {
				n.rn.ReportSnapshot(to, raft.SnapshotFailure)
			}
			continue
		}
		kept = append(kept, m)
	}
	for _, to := range unreachable {
		n.rn.ReportUnreachable(to)
	}
	if len(kept) > 0 {
		n.o.Transport.Send(kept)
	}
}

func hasConfChange(es []*raftpb.Entry) bool {
	return slices.ContainsFunc(es, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal })
}
