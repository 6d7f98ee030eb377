package raftnode

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Transport carries messages to the other members. A Node without one
// reaches nobody.
type Transport interface {
	// Send delivers messages to the members they name, in order for each, or
	// loses them. It must not block, and must not change the messages.
	Send(msgs []*raftpb.Message)
	// ActiveSince returns since when messages to a member have been getting
	// through, and the zero time if they are not.
	ActiveSince(member uint64) time.Time
}
