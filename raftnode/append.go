package raftnode

import (
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// runAppends is the append goroutine. All that waits for it becomes one journal
// frame with one fdatasync; then it tells raft in a turn of its own, which may
// bring it the next entries. While it sleeps, proposals wake it and not the raft
// goroutine. So between a request that comes alone and its fdatasync stands one
// change of goroutines, and one between that and the store.
func (n *Node) runAppends() {
	for ok := true; ok; {
		select {
		case <-n.ctx.Done():
			return
		case <-n.in.proposed:
			if !n.alone {
				runtime.Gosched() // who is about to propose shares the entry
			}
			ok = n.turn(nil)
		case <-n.appends.wake:
			ok = n.append(n.appends.take())
		}
	}
}

// append writes what ms want to be written, and tells raft.
func (n *Node) append(ms []*raftpb.Message) bool {
	var f frame
	for _, m := range ms {
		if err := f.add(m); err != nil {
			n.fail(err)
			return false
		}
	}
	start := time.Now()
	if f.hs != nil || len(f.entries) > 0 {
		if err := n.o.Journal.Append(f.entries, f.hs, f.sync(n.saved)); err != nil {
			n.fail(fmt.Errorf("appending to the journal: %w", err))
			return false
		}
		if f.hs != nil {
			n.saved = f.hs
		}
	}
	if f.messages == 0 && len(f.responses) == 0 {
		return true
	}
	took := time.Since(start)
	here := false
	ok := n.turn(func() {
		n.takeInStored(stored{responses: f.responses, appends: f.messages})
		if f.messages > 0 && n.appending == 0 {
			n.group.appended(took, len(n.waiting)+n.in.proposals())
		}
		n.alone = n.group.all <= 1
		// One request alone, and nobody to replicate it to: what is committed
		// now is applied without waking another goroutine for it. The next
		// append could not be applied any earlier.
		here = n.alone && n.sole
		n.applyHere = here
	})
	if !ok || !here {
		return ok
	}
	if !n.applying.TryLock() {
		signal(n.applies.wake)
		return true
	}
	defer n.applying.Unlock()
	return n.applyWaiting()
}

// frame is what several MsgStorageAppend want to be written, as one.
type frame struct {
	entries   []*raftpb.Entry
	hs        *raftpb.HardState
	responses []*raftpb.Message
	messages  int // those with entries
}

// add takes in the next message. Its entries replace those before from the
// same index on. Step lets no snapshot through to raft, so none can be asked
// for here; to answer for one that was not written would lose what it held.
func (f *frame) add(m *raftpb.Message) error {
	if m.GetSnapshot() != nil {
		return fmt.Errorf("raft wants a snapshot at index %d written, which this member cannot take in",
			m.GetSnapshot().GetMetadata().GetIndex())
	}
	if es := m.GetEntries(); len(es) > 0 {
		f.messages++
		first := es[0].GetIndex()
		for len(f.entries) > 0 && f.entries[len(f.entries)-1].GetIndex() >= first {
			f.entries = f.entries[:len(f.entries)-1]
		}
		if len(f.entries) == 0 {
			f.entries = es
		} else {
			// Never in place: the slices are raft's.
			f.entries = append(f.entries[:len(f.entries):len(f.entries)], es...)
		}
	}
	// raft leaves all three fields out of a message that changes none of them.
	if m.Term != nil {
		f.hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	f.responses = append(f.responses, m.GetResponses()...)
	return nil
}

// sync reports whether the frame must be durable before raft is told. Nothing
// rests on a commit index that has moved.
func (f *frame) sync(saved *raftpb.HardState) bool {
	return len(f.entries) > 0 ||
		f.hs != nil && (f.hs.GetTerm() != saved.GetTerm() || f.hs.GetVote() != saved.GetVote())
}
