package raftnode

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/store"
)

const (
	// maxBatchBytes and maxBatchRequests bound one log entry, unless a single
	// request is larger. They are raft's unit of sending, and the longest that
	// other requests wait for one that was gathered with them.
	maxBatchBytes    = 1 << 20
	maxBatchRequests = 1024
	// maxApplyGap is how far applying may lag behind committing before
	// requests are refused, in entries (etcd's maxGapBetweenApplyAndCommitIndex).
	// The end of a lease, which relieves the member, may still go twice as far.
	maxApplyGap = 5000
)

// proposal is one request on its way. Whoever moves answered from false to
// true decides its outcome.
type proposal struct {
	req   *pb.InternalRaftRequest
	size  int // marshalled
	start time.Time
	// term, unless 0, is the term in which this member must lead: a request
	// that rests on what the leader knows must not be forwarded to the next
	// one. It has no other deadline.
	term uint64

	answered atomic.Bool
	result   store.Result
	err      error
	done     chan struct{} // has room for the one token that finish puts in
}

func (n *Node) newProposal(r *pb.InternalRaftRequest, term uint64) *proposal {
	if r.Header == nil {
		r.Header = &pb.RequestHeader{}
	}
	r.Header.ID = n.NextID()
	return &proposal{req: r, size: proto.Size(r), start: time.Now(), term: term, done: make(chan struct{}, 1)}
}

// expired reports whether the proposal has waited for too long: since before
// the deadline, or in a term in which this member no longer leads.
func (p *proposal) expired(deadline time.Time, leads uint64) bool {
	if p.term != 0 {
		return p.term != leads
	}
	return !p.start.After(deadline)
}

// finish hands the outcome to the caller, unless it has got one before.
func (p *proposal) finish(result store.Result, err error) {
	if !p.answered.CompareAndSwap(false, true) {
		return
	}
	p.result, p.err = result, err
	p.done <- struct{}{}
}

// Propose replicates a request and returns its outcome after this member has
// applied it. The node fills the request's header id. The request must not be
// changed afterwards, even when Propose returned early. The error is one of
// this package's, or store.ErrNoSpace; errors of the request itself are in the
// result.
func (n *Node) Propose(ctx context.Context, r *pb.InternalRaftRequest) (store.Result, error) {
	if n.exceedsApplyGap(r) {
		return store.Result{}, ErrTooManyRequests
	}
	if err := n.quota.admit(ctx, r); err != nil {
		return store.Result{}, err
	}
	p := n.newProposal(r, 0)
	if p.size > n.o.MaxRequestBytes {
		return store.Result{}, ErrRequestTooLarge
	}
	if !n.in.propose(p) {
		return store.Result{}, ErrStopped
	}
	proposalsPending.Inc()
	defer proposalsPending.Dec()
	// Not even n.stopping is waited for here: a channel that all requests share
	// would be a lock that all of them take. Who stops the node answers them.
	select {
	case <-p.done:
	case <-ctx.Done():
		p.finish(store.Result{}, n.proposeError(ctx.Err(), p.start))
		<-p.done
	}
	if p.err != nil {
		proposalsFailed.Inc()
	}
	observeRequest(r, p.err == nil, time.Since(p.start))
	return p.result, p.err
}

// exceedsApplyGap reports whether too much is committed and not yet applied.
func (n *Node) exceedsApplyGap(r *pb.InternalRaftRequest) bool {
	limit := uint64(maxApplyGap)
	if r.LeaseRevoke != nil {
		limit *= 2
	}
	return n.commit.Load() > n.applied.Load()+limit
}

// leads returns the term in which this member leads, else 0. Only the raft
// goroutine can rely on it.
func (n *Node) leads() uint64 {
	if n.leader.Load() != n.o.ID {
		return 0
	}
	return n.term.Load()
}

// expireError says why a proposal got no outcome in time.
func (n *Node) expireError(p *proposal) error {
	if p.term != 0 {
		return ErrNotLeader
	}
	return n.proposeError(context.DeadlineExceeded, p.start)
}

// proposeError says why a request that was sent at start has no outcome.
func (n *Node) proposeError(err error, start time.Time) error {
	if errors.Is(err, context.Canceled) {
		return ErrCanceled
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// A request of the last two election timeouts before the present leader
	// was elected may have gone to the one before.
	elected := n.electedAt()
	if !elected.IsZero() && start.Before(elected) && start.After(elected.Add(-2*n.electionTimeout())) {
		return ErrTimeoutDueToLeaderFail
	}
	switch leader := n.leader.Load(); leader {
	case 0:
	case n.o.ID:
		if !n.connectedToQuorumSince(start) {
			return ErrTimeoutDueToConnectionLost
		}
	default:
		if !n.connectedSince(leader, start) {
			return ErrTimeoutDueToConnectionLost
		}
	}
	return ErrTimeout
}

// batch is the requests of one log entry that this member proposed.
type batch struct {
	id        uint64
	proposals []*proposal
	requests  []*pb.InternalRaftRequest
}

// pending holds the batches that were handed to raft and have not been applied
// by this member.
type pending struct {
	mu      sync.Mutex
	batches map[uint64]*batch
}

func (p *pending) add(b *batch) {
	p.mu.Lock()
	p.batches[b.id] = b
	p.mu.Unlock()
}

// take returns the batch of that id and forgets it; nil if there is none.
func (p *pending) take(id uint64) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.batches[id]
	delete(p.batches, id)
	return b
}

// expire fails the proposals that have expired with what fail returns, and
// forgets the batches in which nobody waits any more.
func (p *pending) expire(deadline time.Time, leads uint64, fail func(*proposal) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, b := range p.batches {
		waiting := false
		for _, q := range b.proposals {
			if !q.answered.Load() && q.expired(deadline, leads) {
				q.finish(store.Result{}, fail(q))
			}
			waiting = waiting || !q.answered.Load()
		}
		if !waiting {
			delete(p.batches, id)
		}
	}
}

// abort fails all proposals and forgets all batches.
func (p *pending) abort(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.batches {
		b.fail(err)
	}
	clear(p.batches)
}

// gather cuts waiting proposals into batches, in their order. Those that have
// been answered meanwhile (their callers are gone) are left out, and so are
// those that wanted another leader than there is.
func (n *Node) gather(waiting []*proposal) []*batch {
	var batches []*batch
	var b *batch
	size := 0
	for _, p := range waiting {
		if p.answered.Load() {
			continue
		}
		if p.term != 0 && p.term != n.leads() {
			p.finish(store.Result{}, ErrNotLeader)
			continue
		}
		if b == nil || size+p.size > maxBatchBytes || len(b.proposals) == maxBatchRequests {
			n.lastBatchID++
			b = &batch{id: n.lastBatchID}
			batches = append(batches, b)
			size = 0
		}
		b.proposals = append(b.proposals, p)
		b.requests = append(b.requests, p.req)
		size += p.size
	}
	return batches
}
