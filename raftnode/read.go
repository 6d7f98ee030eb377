package raftnode

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"
)

const (
	// maxReadRounds is how many read rounds may be under way; reads that come
	// in meanwhile share the next one.
	maxReadRounds = 4
	// readRetryTicks is after how many ticks a round that has no answer is
	// sent again (a message may have been lost).
	readRetryTicks = 5
	// applyTimeout is how long WaitApplied waits.
	applyTimeout = time.Second
)

// readRound asks the cluster once, for all reads that joined before it was
// sent, up to where the log was committed at that moment. Fields other than
// err and done belong to who takes a turn at raft.
type readRound struct {
	start  time.Time
	ids    []uint64 // the contexts under which it was sent, the newest last
	waited int      // ticks since it was last sent
	err    error    // set before done is closed
	done   chan struct{}
}

func newReadRound() *readRound {
	return &readRound{start: time.Now(), done: make(chan struct{})}
}

func (r *readRound) finish(err error) {
	r.err = err
	close(r.done)
}

// ReadIndex returns when everything that was acknowledged anywhere in the
// cluster before the call is in this member's store. It fails with
// ErrLeaderChanged, ErrTimeout, ErrStopped or the error of ctx.
func (n *Node) ReadIndex(ctx context.Context) error {
	r := n.in.join()
	if r == nil {
		return ErrStopped
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitApplied returns when everything that is committed as far as this member
// knows has been applied, or with ErrTimeoutWaitAppliedIndex after a second.
func (n *Node) WaitApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, applyTimeout, ErrTimeoutWaitAppliedIndex)
	defer cancel()
	done := make(chan error, 1)
	n.appliedWaits.add(n.commit.Load(), func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// canRead reports whether a read round may be sent. raft lets a leader that is
// the only voter answer from what it knows to be committed, which just after
// its election may be less than what was acknowledged in an earlier life:
// entries of earlier terms are committed only with the first of its own.
func (n *Node) canRead() bool {
	leader := n.leader.Load()
	return leader != 0 && (leader != n.o.ID || n.committedTerm == n.term.Load())
}

// startReads sends the open round, if there is one and raft can answer it.
func (n *Node) startReads() {
	if len(n.rounds) >= maxReadRounds || !n.canRead() {
		return
	}
	if r := n.in.closeRound(); r != nil {
		n.rounds = append(n.rounds, r)
		n.sendRound(r)
	}
}

func (n *Node) sendRound(r *readRound) {
	n.lastReadID++
	r.ids = append(r.ids, n.lastReadID)
	r.waited = 0
	n.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, n.lastReadID))
}

// confirmRead takes in raft's answer to a round.
func (n *Node) confirmRead(rs raft.ReadState) {
	if len(rs.RequestCtx) != 8 {
		return
	}
	id := binary.BigEndian.Uint64(rs.RequestCtx)
	for i, r := range n.rounds {
		for _, sent := range r.ids {
			if sent != id {
				continue
			}
			n.rounds = append(n.rounds[:i], n.rounds[i+1:]...)
			n.appliedWaits.add(rs.Index, r.finish)
			return
		}
	}
	slowReadIndexes.Inc() // the answer to a round that was given up
}

// failReads fails the rounds that were sent to a leader that is no more.
func (n *Node) failReads(err error) {
	for _, r := range n.rounds {
		readIndexesFailed.Inc()
		r.finish(err)
	}
	n.rounds = nil
}

// tickReads sends rounds again that have waited for long, and gives up those
// that have waited for too long.
func (n *Node) tickReads(now time.Time) {
	deadline := now.Add(-n.RequestTimeout())
	kept := n.rounds[:0]
	for _, r := range n.rounds {
		if r.start.Before(deadline) {
			slowReadIndexes.Inc()
			n.lg.Warn("gave up waiting for the answer to a read index", zap.Duration("timeout", n.RequestTimeout()))
			r.finish(ErrTimeout)
			continue
		}
		kept = append(kept, r)
		if r.waited++; r.waited >= readRetryTicks && n.canRead() {
			n.sendRound(r)
		}
	}
	clear(n.rounds[len(kept):])
	n.rounds = kept
	if r := n.in.expireRound(deadline); r != nil {
		slowReadIndexes.Inc()
		r.finish(ErrTimeout) // there was no leader all the time
	}
}

// indexWaits holds what is to be done when an index has been applied.
type indexWaits struct {
	mu      sync.Mutex
	reached uint64
	waits   []indexWait
	err     error // set by abort
}

type indexWait struct {
	index uint64
	do    func(error)
}

// add has do called with nil as soon as index has been applied, which may be at
// once, or with an error if that will not be.
func (w *indexWaits) add(index uint64, do func(error)) {
	w.mu.Lock()
	err := w.err
	if err == nil && w.reached < index {
		w.waits = append(w.waits, indexWait{index, do})
		do = nil
	}
	w.mu.Unlock()
	if do != nil {
		do(err)
	}
}

// reach tells that everything up to index has been applied.
func (w *indexWaits) reach(index uint64) {
	w.mu.Lock()
	w.reached = index
	var due []indexWait
	kept := w.waits[:0]
	for _, x := range w.waits {
		if x.index <= index {
			due = append(due, x)
		} else {
			kept = append(kept, x)
		}
	}
	clear(w.waits[len(kept):])
	w.waits = kept
	w.mu.Unlock()
	for _, x := range due {
		x.do(nil)
	}
}

// abort ends all waits, now and from now on, with err.
func (w *indexWaits) abort(err error) {
	w.mu.Lock()
	w.err = err
	due := w.waits
	w.waits = nil
	w.mu.Unlock()
	for _, x := range due {
		x.do(err)
	}
}
