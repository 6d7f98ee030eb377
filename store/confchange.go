package store

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Configuration changes are raftpb.ConfChange entries, one member each. The
// context of an addition or update is the member, marshalled; an addition of a
// voter without a context promotes the learner of that id.

// AddMember returns the change that adds m as a voter, or as a learner if its
// attributes say so. id comes back as EntryResult.ID. The context of the
// returned change is also what raft's bootstrap wants as context of a peer.
func AddMember(id uint64, m *pb.Member) (*raftpb.ConfChange, error) {
	t := raftpb.ConfChangeAddNode
	if m.IsLearner {
		t = raftpb.ConfChangeAddLearnerNode
	}
	return memberChange(id, t, m)
}

// UpdateMember returns the change that gives the member m.ID the peer URLs of
// m. Nothing else of m counts.
func UpdateMember(id uint64, m *pb.Member) (*raftpb.ConfChange, error) {
	return memberChange(id, raftpb.ConfChangeUpdateNode, m)
}

// RemoveMember returns the change that removes a member. Its id never returns.
func RemoveMember(id, member uint64) *raftpb.ConfChange {
	return &raftpb.ConfChange{Id: &id, Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &member}
}

// PromoteMember returns the change that makes a learner a voter.
func PromoteMember(id, member uint64) *raftpb.ConfChange {
	return &raftpb.ConfChange{Id: &id, Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &member}
}

func memberChange(id uint64, t raftpb.ConfChangeType, m *pb.Member) (*raftpb.ConfChange, error) {
	context, err := marshal(&membershippb.Member{
		ID:               m.ID,
		RaftAttributes:   &membershippb.RaftAttributes{PeerUrls: m.PeerURLs, IsLearner: m.IsLearner},
		MemberAttributes: &membershippb.Attributes{Name: m.Name, ClientUrls: m.ClientURLs},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding member %x for a configuration change: %w", m.ID, err)
	}
	return &raftpb.ConfChange{Id: &id, Type: t.Enum(), NodeId: &m.ID, Context: context}, nil
}

// change checks the change against the members and makes it on a copy. Whether
// it passes depends on the replicated state alone (and on maxLearners, which
// must be set alike on all members). raft panics on a configuration without
// voters, so that is never handed on.
func (c *cluster) change(cc *raftpb.ConfChange, maxLearners int) (*cluster, error) {
	id := cc.GetNodeId()
	if c.isRemoved(id) {
		return nil, ErrMemberRemoved
	}
	old := c.member(id)
	n := c.clone()
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		learner := cc.GetType() == raftpb.ConfChangeAddLearnerNode
		if len(cc.Context) == 0 && !learner {
			if old == nil {
				return nil, ErrMemberNotFound
			}
			if !old.IsLearner {
				return nil, ErrNotLearner
			}
			m := cloneMember(old)
			m.IsLearner = false
			n.putMember(m)
			return n, nil
		}
		if old != nil {
			return nil, ErrMemberExists
		}
		m, err := memberOf(cc)
		if err != nil {
			return nil, err
		}
		if c.peerURLTaken(m) {
			return nil, ErrPeerURLExists
		}
		if m.IsLearner = learner; learner && c.learners()+1 > maxLearners {
			return nil, ErrTooManyLearners
		}
		n.putMember(m)
	case raftpb.ConfChangeRemoveNode:
		if old == nil {
			return nil, ErrMemberNotFound
		}
		n.removeMember(id)
	case raftpb.ConfChangeUpdateNode:
		if old == nil {
			return nil, ErrMemberNotFound
		}
		update, err := memberOf(cc)
		if err != nil {
			return nil, err
		}
		if c.peerURLTaken(update) {
			return nil, ErrPeerURLExists
		}
		m := cloneMember(old)
		m.PeerURLs = update.PeerURLs
		n.putMember(m)
	default:
		return nil, ErrMalformedConfChange
	}
	if n.voters() == 0 {
		return nil, ErrLastVoter
	}
	return n, nil
}

// memberOf decodes the context of a change.
func memberOf(cc *raftpb.ConfChange) (*pb.Member, error) {
	m := &membershippb.Member{}
	if err := proto.Unmarshal(cc.Context, m); err != nil || m.ID != cc.GetNodeId() || m.ID == 0 {
		return nil, ErrMalformedConfChange
	}
	return &pb.Member{
		ID:         m.ID,
		Name:       m.GetMemberAttributes().GetName(),
		PeerURLs:   m.GetRaftAttributes().GetPeerUrls(),
		ClientURLs: m.GetMemberAttributes().GetClientUrls(),
		IsLearner:  m.GetRaftAttributes().GetIsLearner(),
	}, nil
}

// peerURLTaken reports whether another member listens on one of m's peer URLs.
func (c *cluster) peerURLTaken(m *pb.Member) bool {
	for _, o := range c.members {
		if o.ID == m.ID {
			continue
		}
		for _, u := range o.PeerURLs {
			if slices.Contains(m.PeerURLs, u) {
				return true
			}
		}
	}
	return false
}

func (c *cluster) learners() int {
	n := 0
	for _, m := range c.members {
		if m.IsLearner {
			n++
		}
	}
	return n
}

func (c *cluster) voters() int { return len(c.members) - c.learners() }

func cloneMember(m *pb.Member) *pb.Member { return proto.Clone(m).(*pb.Member) }
