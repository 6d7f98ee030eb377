package store

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Entry is a committed log entry on its way into the store.
type Entry struct {
	// Raft is the entry as it stands in the log. Entries are applied in the
	// order of the log without gaps.
	Raft *raftpb.Entry
	// Commands are the requests encoded in Raft.Data, where the proposer
	// still has them at hand; with nil, Apply decodes Raft.Data. They are not
	// changed, and not used after Apply has returned.
	Commands []*pb.InternalRaftRequest
}

// Result is the outcome of one request. Exactly one of the fields is set,
// except for requests that have no response (ClusterVersionSet and its like).
type Result struct {
	// Response is the request's response message. Of its header only the
	// revision is filled.
	Response proto.Message
	// Err is one of the errors of this package, of mvcc or of lease.
	Err error
}

// EntryResult is the outcome of one log entry.
type EntryResult struct {
	// Index is the index of the entry.
	Index uint64
	// ID is the id given to EncodeBatch, or the id of a configuration change.
	// It is 0 for the empty entry of a new leader.
	ID uint64
	// Results has one element for every request of the entry, in its order.
	Results []Result
	// ConfChange tells about a configuration change, and is nil otherwise.
	ConfChange *ConfChangeResult
}

// ConfChangeResult is the outcome of a configuration change.
type ConfChangeResult struct {
	// Err is set if the change was refused; raft was then told that nothing
	// changed.
	Err error
	// NodeID is the member that the change was about.
	NodeID uint64
	// Type is what was to be done with it.
	Type raftpb.ConfChangeType
	// Members are all members after the change, by id. They must not be changed.
	Members []*pb.Member
}

// ConfChanger is the part of raft that has to learn of a configuration change
// when it is applied; raft.RawNode is one. A change that the store refuses is
// passed on with node id 0, which changes nothing and lets raft accept the
// next proposal.
type ConfChanger interface {
	ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState
}
