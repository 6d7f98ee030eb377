package raftnode

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/store"
)

// Node is one running member. Its methods may be called from any goroutine.
type Node struct{}

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
func Start(o Options) (*Node, error) { return &Node{}, nil }

// Stop hands leadership over if another member can take it, fails all that
// waits with ErrStopped, and returns when the node no longer uses journal or
// store. It does not need a quorum; when ctx ends it stops handing over.
func (n *Node) Stop(ctx context.Context) {}

// Ready is closed when this member has published itself in the cluster, which
// needs a leader and a quorum: from then on it can serve clients.
func (n *Node) Ready() <-chan struct{} { return nil }

// Done is closed when the node can no longer work. Err tells why.
func (n *Node) Done() <-chan struct{} { return nil }

// Err is the reason for Done: nil after Stop, ErrRemoved after the member was
// removed, else the failure of a disk, naming the file.
func (n *Node) Err() error { return nil }

// Status returns the node's present view.
func (n *Node) Status() Status { return Status{} }

// LeaderChanged returns a channel that is closed at the next change of leader,
// its loss included.
func (n *Node) LeaderChanged() <-chan struct{} { return nil }

// NextID returns an id that no member of the cluster has given before, never 0
// and never above 2^63-1.
func (n *Node) NextID() uint64 { return 0 }

// RequestTimeout is how long a request waits for its outcome.
func (n *Node) RequestTimeout() time.Duration { return 0 }

// Propose replicates a request and returns its outcome after this member has
// applied it. The node fills the request's header id. The request must not be
// changed afterwards, even when Propose returned early. The error is one of
// this package's, or store.ErrNoSpace; errors of the request itself are in the
// result.
func (n *Node) Propose(ctx context.Context, r *pb.InternalRaftRequest) (store.Result, error) {
	return store.Result{}, nil
}

// ReadIndex returns when everything that was acknowledged anywhere in the
// cluster before the call is in this member's store.
func (n *Node) ReadIndex(ctx context.Context) error { return nil }

// WaitApplied returns when everything that is committed as far as this member
// knows has been applied, after at most one second.
func (n *Node) WaitApplied(ctx context.Context) error { return nil }

// Step takes in a message from another member.
func (n *Node) Step(ctx context.Context, m *raftpb.Message) error { return nil }

// TransferLeadership hands leadership to a voting member and returns when it
// leads. Only the leader can do this.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error { return nil }

// Members returns the members of the cluster by id; linearizable waits for a
// read index first.
func (n *Node) Members(ctx context.Context, linearizable bool) ([]*pb.Member, error) {
	return nil, nil
}

// MemberAdd adds a member that is not yet there and returns it and all members.
func (n *Node) MemberAdd(ctx context.Context, peerURLs []string, learner bool) (*pb.Member, []*pb.Member, error) {
	return nil, nil, nil
}

// MemberRemove removes a member for ever.
func (n *Node) MemberRemove(ctx context.Context, id uint64) ([]*pb.Member, error) { return nil, nil }

// MemberUpdate changes a member's peer URLs.
func (n *Node) MemberUpdate(ctx context.Context, id uint64, peerURLs []string) ([]*pb.Member, error) {
	return nil, nil
}

// MemberPromote makes a learner that has caught up a voting member.
func (n *Node) MemberPromote(ctx context.Context, id uint64) ([]*pb.Member, error) { return nil, nil }

// LeaseRenew extends a lease to its full time to live and returns that, in seconds.
func (n *Node) LeaseRenew(ctx context.Context, id int64) (int64, error) { return 0, nil }

// LeaseTimeToLive returns what is left of a lease, and its keys if wanted. The
// header is empty.
func (n *Node) LeaseTimeToLive(ctx context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	return nil, nil
}
