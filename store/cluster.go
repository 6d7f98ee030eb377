package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// cluster is the replicated state besides keys and leases. A published value
// is never changed: Apply works on a copy and publishes it after the commit,
// so readers need no lock.
type cluster struct {
	members   []*pb.Member      // by id
	removed   []uint64          // ascending
	alarms    []*pb.AlarmMember // by type, then member
	version   string            // "" until the first ClusterVersionSet
	downgrade *membershippb.DowngradeInfoSetRequest
	confState *raftpb.ConfState
}

func (c *cluster) clone() *cluster {
	n := *c
	n.members = slices.Clone(c.members)
	n.removed = slices.Clone(c.removed)
	n.alarms = slices.Clone(c.alarms)
	return &n
}

func (c *cluster) findMember(id uint64) (int, bool) {
	return slices.BinarySearchFunc(c.members, id, func(m *pb.Member, id uint64) int { return cmp.Compare(m.ID, id) })
}

// member returns the member with the given id, or nil.
func (c *cluster) member(id uint64) *pb.Member {
	if i, ok := c.findMember(id); ok {
		return c.members[i]
	}
	return nil
}

// putMember adds m or replaces the member of its id.
func (c *cluster) putMember(m *pb.Member) {
	i, ok := c.findMember(m.ID)
	if ok {
		c.members[i] = m
		return
	}
	c.members = slices.Insert(c.members, i, m)
}

// removeMember takes the member out and remembers its id for ever.
func (c *cluster) removeMember(id uint64) {
	if i, ok := c.findMember(id); ok {
		c.members = slices.Delete(c.members, i, i+1)
	}
	c.addRemoved(id)
}

func (c *cluster) addRemoved(id uint64) {
	if i, ok := slices.BinarySearch(c.removed, id); !ok {
		c.removed = slices.Insert(c.removed, i, id)
	}
}

func (c *cluster) isRemoved(id uint64) bool {
	_, ok := slices.BinarySearch(c.removed, id)
	return ok
}

func compareAlarms(a, b *pb.AlarmMember) int {
	return cmp.Or(cmp.Compare(a.Alarm, b.Alarm), cmp.Compare(a.MemberID, b.MemberID))
}

// addAlarm reports whether the alarm was new.
func (c *cluster) addAlarm(a *pb.AlarmMember) bool {
	i, ok := slices.BinarySearchFunc(c.alarms, a, compareAlarms)
	if !ok {
		c.alarms = slices.Insert(c.alarms, i, a)
	}
	return !ok
}

// removeAlarm reports whether the alarm was there.
func (c *cluster) removeAlarm(a *pb.AlarmMember) bool {
	i, ok := slices.BinarySearchFunc(c.alarms, a, compareAlarms)
	if ok {
		c.alarms = slices.Delete(c.alarms, i, i+1)
	}
	return ok
}

// alarmsOf returns the active alarms of a type, all of them for NONE.
func (c *cluster) alarmsOf(t pb.AlarmType) []*pb.AlarmMember {
	if t == pb.AlarmType_NONE {
		return slices.Clone(c.alarms)
	}
	var as []*pb.AlarmMember
	for _, a := range c.alarms {
		if a.Alarm == t {
			as = append(as, a)
		}
	}
	return as
}

func (c *cluster) hasAlarm(t pb.AlarmType) bool {
	return slices.ContainsFunc(c.alarms, func(a *pb.AlarmMember) bool { return a.Alarm == t })
}

// The store's records beside the keys, each in a meta space of its own.
const (
	spaceMember  = "member"  // id -> pb.Member
	spaceRemoved = "removed" // id -> nothing
	spaceAlarm   = "alarm"   // type, member id -> nothing
	spaceCluster = "cluster" // one of the names below
	spaceLease   = "lease"   // id -> lease record

	nameConfState = "conf-state" // raftpb.ConfState
	nameVersion   = "version"    // major.minor.patch
	nameDowngrade = "downgrade"  // membershippb.DowngradeInfoSetRequest
)

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func alarmKey(a *pb.AlarmMember) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(a.Alarm)), a.MemberID)
}

// load takes in one stored record.
func (c *cluster) load(space string, key, value []byte) error {
	switch space {
	case spaceMember:
		m := &pb.Member{}
		if err := proto.Unmarshal(value, m); err != nil {
			return fmt.Errorf("decoding a member: %w", err)
		}
		if len(key) != 8 || binary.BigEndian.Uint64(key) != m.ID {
			return fmt.Errorf("the record of member %x stands under another id", m.ID)
		}
		c.putMember(m)
	case spaceRemoved:
		if len(key) != 8 {
			return fmt.Errorf("the id of a removed member has %d bytes", len(key))
		}
		c.addRemoved(binary.BigEndian.Uint64(key))
	case spaceAlarm:
		if len(key) != 12 {
			return fmt.Errorf("the key of an alarm has %d bytes", len(key))
		}
		c.addAlarm(&pb.AlarmMember{
			Alarm:    pb.AlarmType(binary.BigEndian.Uint32(key)),
			MemberID: binary.BigEndian.Uint64(key[4:]),
		})
	case spaceCluster:
		switch string(key) {
		case nameConfState:
			c.confState = &raftpb.ConfState{}
			if err := proto.Unmarshal(value, c.confState); err != nil {
				return fmt.Errorf("decoding the configuration state: %w", err)
			}
		case nameVersion:
			c.version = string(value)
		case nameDowngrade:
			c.downgrade = &membershippb.DowngradeInfoSetRequest{}
			if err := proto.Unmarshal(value, c.downgrade); err != nil {
				return fmt.Errorf("decoding the downgrade: %w", err)
			}
		default:
			return fmt.Errorf("unknown record %q about the cluster", key)
		}
	default:
		return fmt.Errorf("unknown record space %q", space)
	}
	return nil
}

// marshal encodes m so that equal messages are equal bytes on every member.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
