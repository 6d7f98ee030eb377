package raftnode

import (
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/store"
)

// bootstrap begins the log of a new cluster, in an empty journal: one committed
// configuration change for each member. The entries follow from the members
// alone, so that all members write the same bytes.
func bootstrap(o *Options) error {
	applied, _ := o.Store.Applied()
	if len(o.Bootstrap) == 0 || o.Journal.LastIndex() > 0 || applied > 0 {
		return nil
	}
	entries, err := bootstrapEntries(o.Bootstrap)
	if err != nil {
		return err
	}
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(len(entries)))}
	if err := o.Journal.Append(entries, hs, true); err != nil {
		return fmt.Errorf("writing the first entries of a new cluster: %w", err)
	}
	return nil
}

func bootstrapEntries(members []*pb.Member) ([]*raftpb.Entry, error) {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) })
	var entries []*raftpb.Entry
	for i, m := range members {
		if i > 0 && members[i-1].ID == m.ID {
			return nil, fmt.Errorf("two initial members have the id %x: their peer URLs must differ", m.ID)
		}
		urls := slices.Clone(m.PeerURLs)
		slices.Sort(urls)
		// What a member publishes about itself, its name for one, is not part
		// of it: the other members may not know it.
		cc, err := store.AddMember(0, &pb.Member{ID: m.ID, PeerURLs: urls, IsLearner: m.IsLearner})
		if err != nil {
			return nil, err
		}
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(cc)
		if err != nil {
			return nil, err
		}
		entries = append(entries, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)), Data: data,
		})
	}
	return entries, nil
}
