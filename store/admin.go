package store

import (
	"fmt"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// applyAlarm raises, ends or lists alarms. A response names the alarm that was
// raised (or was already) or ended, and none if it was not active.
func (b *batch) applyAlarm(r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp := &pb.AlarmResponse{Header: b.header()}
	a := &pb.AlarmMember{MemberID: r.MemberID, Alarm: r.Alarm}
	switch r.Action {
	case pb.AlarmRequest_GET:
		resp.Alarms = b.cluster.alarmsOf(r.Alarm)
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm == pb.AlarmType_NONE {
			break
		}
		if n := b.cluster.clone(); n.addAlarm(a) {
			b.cluster = n
			b.setMeta(spaceAlarm, alarmKey(a), nil)
		}
		resp.Alarms = []*pb.AlarmMember{a}
	case pb.AlarmRequest_DEACTIVATE:
		if n := b.cluster.clone(); n.removeAlarm(a) {
			b.cluster = n
			b.mv.DeleteMeta(spaceAlarm, alarmKey(a))
			resp.Alarms = []*pb.AlarmMember{a}
		}
	default:
		return nil, ErrMalformedRequest
	}
	return resp, nil
}

// applyMemberAttributes sets what a member publishes about itself.
func (b *batch) applyMemberAttributes(r *membershippb.ClusterMemberAttrSetRequest) error {
	old := b.cluster.member(r.Member_ID)
	if old == nil {
		if b.cluster.isRemoved(r.Member_ID) {
			return ErrMemberRemoved
		}
		return ErrMemberNotFound
	}
	m := cloneMember(old)
	m.Name = r.GetMemberAttributes().GetName()
	m.ClientURLs = r.GetMemberAttributes().GetClientUrls()
	n := b.cluster.clone()
	n.putMember(m)
	b.cluster = n
	b.setMeta(spaceMember, idKey(m.ID), m)
	return nil
}

// applyClusterVersion sets the version that all members support.
func (b *batch) applyClusterVersion(r *membershippb.ClusterVersionSetRequest) error {
	if _, err := semver.NewVersion(r.Ver); err != nil {
		return ErrMalformedRequest
	}
	n := b.cluster.clone()
	n.version = r.Ver
	b.cluster = n
	b.mv.SetMeta(spaceCluster, []byte(nameVersion), []byte(r.Ver))
	return nil
}

func (b *batch) applyDowngrade(r *membershippb.DowngradeInfoSetRequest) {
	d := &membershippb.DowngradeInfoSetRequest{}
	if r.Enabled {
		d.Enabled, d.Ver = true, r.Ver
	}
	n := b.cluster.clone()
	n.downgrade = d
	b.cluster = n
	b.setMeta(spaceCluster, []byte(nameDowngrade), d)
}

// applyConfChange checks a configuration change, tells raft and stores what
// came of it.
func (b *batch) applyConfChange(e *raftpb.Entry, conf ConfChanger, res *EntryResult) error {
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.Data, cc); err != nil {
		return fmt.Errorf("decoding the configuration change: %w", err)
	}
	res.ID = cc.GetId()
	out := &ConfChangeResult{NodeID: cc.GetNodeId(), Type: cc.GetType()}
	res.ConfChange = out
	n, err := b.cluster.change(cc, b.s.maxLearners)
	if err != nil {
		out.Err = err
		out.Members = b.cluster.members
		conf.ApplyConfChange(&raftpb.ConfChange{Type: cc.Type, NodeId: new(uint64)})
		return nil
	}
	n.confState = conf.ApplyConfChange(cc)
	b.cluster = n
	out.Members = n.members
	b.setMeta(spaceCluster, []byte(nameConfState), n.confState)
	if m := n.member(out.NodeID); m != nil {
		b.setMeta(spaceMember, idKey(m.ID), m)
	} else {
		b.mv.DeleteMeta(spaceMember, idKey(out.NodeID))
		b.setMeta(spaceRemoved, idKey(out.NodeID), nil)
	}
	return nil
}
