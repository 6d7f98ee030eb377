package raftnode

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Node is one running member. Its methods may be called from any goroutine.
type Node struct {
	o       Options
	lg      *zap.Logger
	in      *inbox
	appends *queue[*raftpb.Message]
	applies *queue[*raftpb.Message]
	pending pending
	confs   confWaits
	quota   *quota
	reserve *reserve
	trimmer *trimmer
	rotator *rotator

	// What other goroutines may know of raft's state, written in a turn
	// at it; applied and appliedState by the apply goroutine.
	leader, term, commit, applied atomic.Uint64
	learner                       atomic.Bool
	lastTick                      atomic.Int64  // Unix nanoseconds
	raftApplied                   atomic.Uint64 // up to where raft knows that entries were applied
	appliedState                  atomic.Pointer[raftpb.SnapshotMetadata]
	appliedWaits                  indexWaits
	leadership                    leadership
	nextID                        atomic.Uint64

	// turning is held by who takes a turn at raft, and guards what follows.
	turning       sync.Mutex
	rn            *raft.RawNode
	rnEnded       bool        // rn may have stopped in the midst of its work
	refusing      bool        // the node is to stop: nothing is done for raft any more
	waiting       []*proposal // not yet handed to raft
	rounds        []*readRound
	lastReadID    uint64
	lastBatchID   uint64
	appending     int               // MsgStorageAppend with entries under way
	applyingConfs int               // MsgStorageApply with configuration changes under way
	held          []*raftpb.Message // to be sent when applyingConfs is 0
	committedTerm uint64            // term of the last entry known to be committed
	handed        uint64            // index of the last entry handed to the apply goroutine
	group         group
	applyHere     bool // whoever takes this turn applies what is committed in it
	state         raft.StateType
	sole          bool // this member is the only voter

	// The append goroutine's own.
	saved *raftpb.HardState // the last one in the journal
	alone bool              // one request at most was under way when the last append ended

	applying sync.Mutex // held by who applies

	ready        chan struct{}
	ctx          context.Context // ends when the node is to stop
	stop         context.CancelFunc
	storing      sync.WaitGroup // append and apply goroutine
	duties       sync.WaitGroup
	storingEnded chan struct{} // closed when append and apply goroutine have ended
	raftEnded    chan struct{} // closed when the raft goroutine has ended
	done         chan struct{} // closed when the node can no longer work
	failOnce     sync.Once
	err          error
}

// Status is a member's view of its cluster at one instant.
type Status struct {
	// ID is this member.
	ID uint64
	// Leader is the member that leads, 0 if none is known.
	Leader uint64
	// Term, Commit and Applied are raft's term and the highest committed and
	// applied index.
	Term, Commit, Applied uint64
	// IsLearner tells whether this member is a learner.
	IsLearner bool
}

// Start brings up a member from its journal and store, both open, which must
// stay so until Stop has returned.
func Start(o Options) (*Node, error) {
	o.setDefaults()
	if err := bootstrap(&o); err != nil {
		return nil, err
	}
	hs, err := checkStart(&o)
	if err != nil {
		return nil, fmt.Errorf("starting raft: %w", err)
	}
	applied, appliedTerm := o.Store.Applied()
	cs := o.Store.ConfState()
	n := &Node{
		o: o, lg: o.Logger,
		in:           newInbox(),
		appends:      newQueue[*raftpb.Message](),
		applies:      newQueue[*raftpb.Message](),
		pending:      pending{batches: map[uint64]*batch{}},
		confs:        confWaits{waits: map[uint64]*confWait{}},
		ready:        make(chan struct{}),
		storingEnded: make(chan struct{}),
		raftEnded:    make(chan struct{}),
		done:         make(chan struct{}),
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.leadership.changed = make(chan struct{})
	n.group.wake = func() { signal(n.in.proposed) }
	n.quota = newQuota(n)
	n.reserve = newReserve(n)
	n.trimmer = newTrimmer(n, applied)
	n.rotator = newRotator(n)
	// Ids of batches, requests and read rounds need only differ from all others
	// ever given: they count from a random number. An answer that the leader
	// still owes the process before this one must fit no round of this one.
	var random [24]byte
	cryptorand.Read(random[:])
	n.lastBatchID = binary.BigEndian.Uint64(random[:])
	n.nextID.Store(binary.BigEndian.Uint64(random[8:]))
	n.lastReadID = binary.BigEndian.Uint64(random[16:])

	n.setApplied(applied, appliedTerm, cs)
	n.commit.Store(hs.GetCommit())
	n.term.Store(hs.GetTerm())
	n.raftApplied.Store(applied)
	n.handed = applied
	n.saved = hs
	n.setConfState(cs)
	n.lastTick.Store(time.Now().UnixNano())
	serverID.WithLabelValues(idString(o.ID)).Set(1)
	n.lg.Info("starting raft",
		zap.String("member-id", idString(o.ID)),
		zap.Uint64("term", hs.GetTerm()),
		zap.Uint64("commit-index", hs.GetCommit()),
		zap.Uint64("applied-index", applied),
		zap.Uint64("first-index", o.Journal.FirstIndex()),
		zap.Uint64("last-index", o.Journal.LastIndex()),
	)
	started := make(chan error, 1)
	go n.runRaft(hs, started)
	select {
	case err = <-started:
	case <-n.done:
		err = n.err
	}
	if err != nil {
		n.stop()
		return nil, fmt.Errorf("starting raft: %w", err)
	}
	n.storing.Go(n.runAppends)
	n.storing.Go(n.runApplies)
	go func() {
		n.storing.Wait()
		close(n.storingEnded)
	}()
	for _, duty := range []func(){
		n.publish, n.runLeases, n.runCompaction, n.trimmer.run, n.reserve.run, n.rotator.run, n.keepClusterVersion,
	} {
		n.duties.Go(duty)
	}
	return n, nil
}

// Stop hands leadership over if another member can take it, fails all that
// waits with ErrStopped, and returns when the node no longer uses journal or
// store. It does not need a quorum. When ctx ends first, Stop returns its
// error, and journal and store may still be in use.
func (n *Node) Stop(ctx context.Context) error {
	n.handOver(ctx)
	n.stop()
	ended := make(chan struct{})
	go func() {
		n.duties.Wait()
		<-n.raftEnded
		<-n.storingEnded
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("stopping raft: %w", ctx.Err())
	}
	n.failOnce.Do(func() { close(n.done) })
	return nil
}

// fail ends the node for the given reason. The first reason counts.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.err = err
		close(n.done)
	})
	n.stop()
}

// die is fail for whoever takes a turn at raft, which it ends together with its
// goroutine. raft calls it in the midst of its work, from which there is no way
// back.
func (n *Node) die(err error) {
	n.rnEnded = true
	n.fail(err)
	runtime.Goexit()
}

// Ready is closed when this member has published itself in the cluster, which
// needs a leader and a quorum: from then on it can serve clients.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Done is closed when the node can no longer work. Err tells why.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is the reason why Done is closed: nil after Stop, ErrRemoved after the
// member was removed, else a failure, of a disk mostly, naming the file.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// Status returns the node's present view.
func (n *Node) Status() Status {
	return Status{
		ID:        n.o.ID,
		Leader:    n.leader.Load(),
		Term:      n.term.Load(),
		Commit:    n.commit.Load(),
		Applied:   n.applied.Load(),
		IsLearner: n.learner.Load(),
	}
}

// NextID returns an id, counting from a random number, so that no member of the
// cluster has given it before. It is never 0 and never above 2^63-1.
func (n *Node) NextID() uint64 {
	for {
		if id := n.nextID.Add(1) & (1<<63 - 1); id != 0 {
			return id
		}
	}
}

// RequestTimeout is how long a request waits for its outcome: etcd's 5 seconds
// for queueing, computation and disk, and two elections.
func (n *Node) RequestTimeout() time.Duration { return 5*time.Second + 2*n.electionTimeout() }

func (n *Node) electionTimeout() time.Duration { return time.Duration(n.o.ElectionTicks) * n.o.Tick }

// setApplied publishes what has been applied.
func (n *Node) setApplied(index, term uint64, cs *raftpb.ConfState) {
	n.appliedState.Store(&raftpb.SnapshotMetadata{ConfState: cs, Index: new(index), Term: new(term)})
	n.applied.Store(index)
	proposalsApplied.Set(float64(index))
	n.appliedWaits.reach(index)
}

// dutyContext is a context for one of the node's own requests. It ends with the
// request timeout, or when the node stops.
func (n *Node) dutyContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(n.ctx, n.RequestTimeout())
}

func idString(id uint64) string { return fmt.Sprintf("%x", id) }
