package raftnode

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
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

// Step takes in a message from another member. It never waits; an error says
// that the message was dropped, which raft survives.
func (n *Node) Step(m *raftpb.Message) error {
	switch {
	case m.GetTo() != n.o.ID:
		return fmt.Errorf("message for member %x came to member %x", m.GetTo(), n.o.ID)
	case raft.IsLocalMsg(m.GetType()) || raft.IsLocalMsgTarget(m.GetFrom()) || m.GetFrom() == n.o.ID:
		return fmt.Errorf("message of type %s that only a member itself may send came from member %x", m.GetType(), m.GetFrom())
	case slices.Contains(n.o.Store.RemovedIDs(), m.GetFrom()):
		return fmt.Errorf("message from member %x, which was removed", m.GetFrom())
	case m.GetType() == raftpb.MsgSnap:
		return fmt.Errorf("snapshot from member %x, which this member cannot take in", m.GetFrom())
	case m.GetType() == raftpb.MsgProp && len(m.GetEntries()) == 0:
		return fmt.Errorf("proposal without content from member %x", m.GetFrom())
	case slices.ContainsFunc(m.GetEntries(), func(e *raftpb.Entry) bool { return e.GetType() == raftpb.EntryConfChangeV2 }):
		return fmt.Errorf("message from member %x with a joint configuration change, of which there are none in this cluster", m.GetFrom())
	case !n.in.receive(m):
		return fmt.Errorf("message from member %x came in faster than messages can be handled", m.GetFrom())
	}
	return nil
}
