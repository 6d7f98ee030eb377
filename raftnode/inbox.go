package raftnode

import (
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// inbox is everything that waits for a turn at raft. Whoever puts something in
// never waits: what bounds each kind is said at the method that adds it.
type inbox struct {
	// wake wakes the raft goroutine, proposed the append goroutine. They have
	// room for one token, present while there may be work.
	wake, proposed chan struct{}

	mu     sync.Mutex
	work   work
	closed bool // no more proposals and reads
	// What expect has set.
	wanted            int
	appender, reports bool
}

// work is the content of an inbox.
type work struct {
	proposals []*proposal       // one for each waiting caller
	round     *readRound        // the read round that callers still may join
	messages  []*raftpb.Message // from other members; at most maxIncoming
	stored    []stored          // what the apply goroutine has done
	calls     []func()          // run in the turn, in order
}

// stored is the report of the append or apply goroutine about messages it has
// carried out.
type stored struct {
	responses []*raftpb.Message
	appends   int // how many MsgStorageAppend with entries are done
	confs     int // how many MsgStorageApply with configuration changes are done
	// after is run once raft has taken in the responses.
	after func()
}

// maxIncoming bounds the messages from other members that may wait. raft
// recovers from lost ones.
const maxIncoming = 4096

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), proposed: make(chan struct{}, 1), wanted: 1}
}

// signal puts in the token, unless there is one.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (b *inbox) signal() { signal(b.wake) }

// expect says what is worth waking a goroutine for: that as many proposals wait
// (the append goroutine if appender is set, else the raft goroutine), and that
// something was applied, if reports is set.
func (b *inbox) expect(proposals int, appender, reports bool) {
	b.mu.Lock()
	b.wanted, b.appender, b.reports = proposals, appender, reports
	enough := len(b.work.proposals) >= proposals
	report := reports && len(b.work.stored) > 0
	b.mu.Unlock()
	if enough {
		b.enough(appender)
	}
	if report {
		b.signal()
	}
}

func (b *inbox) enough(appender bool) {
	if appender {
		signal(b.proposed)
	} else {
		b.signal()
	}
}

// propose reports false if the inbox is closed.
func (b *inbox) propose(p *proposal) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.work.proposals = append(b.work.proposals, p)
	enough, appender := len(b.work.proposals) >= b.wanted, b.appender
	b.mu.Unlock()
	if enough {
		b.enough(appender)
	}
	return true
}

// proposals is how many wait.
func (b *inbox) proposals() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.work.proposals)
}

// join returns the round that callers may still join, which is sent only after
// this call; nil if the inbox is closed.
func (b *inbox) join() *readRound {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	r := b.work.round
	first := r == nil
	if first {
		r = newReadRound()
		b.work.round = r
	}
	b.mu.Unlock()
	if first {
		b.signal()
	}
	return r
}

// receive reports false if there was no room.
func (b *inbox) receive(m *raftpb.Message) bool {
	b.mu.Lock()
	ok := len(b.work.messages) < maxIncoming
	if ok {
		b.work.messages = append(b.work.messages, m)
	}
	b.mu.Unlock()
	if ok {
		b.signal()
	}
	return ok
}

// report tells what the apply goroutine has done.
func (b *inbox) report(s stored) {
	b.mu.Lock()
	b.work.stored = append(b.work.stored, s)
	wake := b.reports || s.confs > 0
	b.mu.Unlock()
	if wake {
		b.signal()
	}
}

// call has f run in the next turn.
func (b *inbox) call(f func()) {
	b.mu.Lock()
	b.work.calls = append(b.work.calls, f)
	b.mu.Unlock()
	b.signal()
}

// take empties the inbox, except for the open read round, which stays until it
// is sent (see closeRound).
func (b *inbox) take() work {
	b.mu.Lock()
	w := b.work
	b.work = work{round: w.round}
	b.mu.Unlock()
	return w
}

// closeRound takes the open round, which nobody joins from now on.
func (b *inbox) closeRound() *readRound {
	b.mu.Lock()
	r := b.work.round
	b.work.round = nil
	b.mu.Unlock()
	return r
}

// expireRound takes the open round if it was opened before the deadline.
func (b *inbox) expireRound(deadline time.Time) *readRound {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.work.round
	if r == nil || !r.start.Before(deadline) {
		return nil
	}
	b.work.round = nil
	return r
}

// close lets nobody in any more who would wait for an outcome, and returns who
// waits already.
func (b *inbox) close() ([]*proposal, *readRound) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	proposals, round := b.work.proposals, b.work.round
	b.work.proposals, b.work.round = nil, nil
	return proposals, round
}

// queue hands work that raft wants done to another goroutine. What it holds is
// bounded by raft, which has a limit of what is under way.
type queue[T any] struct {
	wake chan struct{}

	mu    sync.Mutex
	items []T
}

func newQueue[T any]() *queue[T] { return &queue[T]{wake: make(chan struct{}, 1)} }

// put adds an item. Unless wake is set, it can wait for the next one.
func (q *queue[T]) put(item T, wake bool) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	if wake {
		signal(q.wake)
	}
}

// take takes all there is.
func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}
