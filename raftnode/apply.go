package raftnode

import (
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/store"
)

// slowApply is how long an apply may take before it is counted and logged.
const slowApply = 100 * time.Millisecond

// runApplies is the apply goroutine. All that waits for it becomes one batch of
// the store; then the callers have their answers, and raft is told.
func (n *Node) runApplies() {
	for ok := true; ok; {
		select {
		case <-n.ctx.Done():
			return
		case <-n.applies.wake:
		}
		n.applying.Lock()
		ok = n.applyWaiting()
		n.applying.Unlock()
	}
}

// applyWaiting applies all that waits. The caller holds n.applying.
func (n *Node) applyWaiting() bool {
	ms := n.applies.take()
	return len(ms) == 0 || n.apply(ms)
}

func (n *Node) apply(ms []*raftpb.Message) bool {
	var report stored
	var entries []store.Entry
	var batches []*batch // one for each entry, nil if this member did not propose it
	for _, m := range ms {
		report.responses = append(report.responses, m.GetResponses()...)
		if hasConfChange(m.GetEntries()) {
			report.confs++
		}
		for _, e := range m.GetEntries() {
			entry := store.Entry{Raft: e}
			var b *batch
			if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
				if b = n.pending.take(store.BatchID(e.GetData())); b != nil {
					entry.Commands = b.requests
				}
			}
			entries = append(entries, entry)
			batches = append(batches, b)
		}
	}

	// Whoever is left without an answer at the end, however it comes, gets none.
	defer func() {
		for _, b := range batches {
			b.fail(ErrStopped)
		}
	}()
	start := time.Now()
	results, err := n.o.Store.Apply(entries, confChanger{n})
	if err != nil {
		n.fail(fmt.Errorf("applying entries %d to %d: %w",
			entries[0].Raft.GetIndex(), entries[len(entries)-1].Raft.GetIndex(), err))
		return false
	}
	if took := time.Since(start); took > slowApply {
		slowApplies.Inc()
		n.lg.Warn("apply request took too long",
			zap.Duration("took", took), zap.Duration("expected-duration", slowApply), zap.Int("entries", len(entries)))
	}

	last := entries[len(entries)-1].Raft
	n.setApplied(last.GetIndex(), last.GetTerm(), n.o.Store.ConfState())
	for _, e := range entries {
		if e.Raft.GetType() == raftpb.EntryNormal && len(e.Raft.GetData()) == 0 {
			n.beginTerm(e.Raft.GetTerm())
		}
	}
	n.trimmer.applied(entries)
	confs := n.answer(results, batches, entries[0].Raft.GetIndex())
	if len(confs) > 0 {
		// Whoever changed the configuration is answered when raft knows that
		// the change was applied: before that it would ignore another one.
		report.after = func() {
			for _, c := range confs {
				n.finishConf(c)
			}
		}
	}
	n.in.report(report)
	return true
}

// answer gives the callers of this member their results, and returns those of
// configuration changes.
func (n *Node) answer(results []store.EntryResult, batches []*batch, first uint64) (confs []store.EntryResult) {
	for _, r := range results {
		if r.ConfChange != nil {
			confs = append(confs, r)
			continue
		}
		b := batches[r.Index-first]
		if b == nil {
			continue
		}
		for i, p := range b.proposals {
			p.finish(r.Results[i], nil)
		}
		batches[r.Index-first] = nil
	}
	return confs
}

// fail fails all proposals of a batch, if there is one.
func (b *batch) fail(err error) {
	if b == nil {
		return
	}
	for _, p := range b.proposals {
		p.finish(store.Result{}, err)
	}
}

// confChanger is what the store tells of configuration changes as it applies
// them. raft learns of them in its own goroutine.
type confChanger struct{ n *Node }

var _ store.ConfChanger = confChanger{}

// ApplyConfChange implements store.ConfChanger.
func (c confChanger) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	changed := make(chan *raftpb.ConfState, 1)
	c.n.in.call(func() {
		cs := c.n.rn.ApplyConfChange(cc)
		c.n.setConfState(cs)
		changed <- cs
	})
	select {
	case cs := <-changed:
		return cs
	case <-c.n.raftEnded:
		// raft has failed and the member is about to end. No answer would be
		// true, and none that is not may get into the store.
		runtime.Goexit()
		return nil
	}
}

// setConfState notes what follows from a configuration.
func (n *Node) setConfState(cs *raftpb.ConfState) {
	n.sole = len(cs.GetVoters()) == 1 && cs.GetVoters()[0] == n.o.ID && len(cs.GetVotersOutgoing()) == 0
	learner := false
	for _, id := range cs.GetLearners() {
		learner = learner || id == n.o.ID
	}
	n.learner.Store(learner)
	setBool(isLearner, learner)
}
