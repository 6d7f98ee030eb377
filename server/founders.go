package server

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/store"
)

// founders are the members that a new cluster begins with.
type founders struct {
	members []*pb.Member
	id      uint64 // of this one
}

// initialMembers works out the founders from the settings. Ids follow from URLs and token alone, so that members that
// begin separately come to the same ones.
func initialMembers(c *config.Config) (*founders, error) {
	if c.InitialClusterState == config.ClusterStateExisting {
		return nil, errors.New("--initial-cluster-state existing: joining a cluster is not supported yet; start a new cluster, or restore a snapshot with coffer snapshot restore")
	}
	urls, err := c.InitialMembers()
	if err != nil {
		return nil, fmt.Errorf("--initial-cluster %s: %w", c.InitialCluster, err)
	}
	own, ok := urls[c.Name]
	if !ok {
		return nil, fmt.Errorf("couldn't find local name %q in the initial cluster configuration %q: --name and --initial-cluster must agree", c.Name, c.InitialCluster)
	}
	advertised := types.URLs(slices.Clone(c.AdvertisePeerURLs))
	advertised.Sort()
	if advertised.String() != own.String() {
		return nil, fmt.Errorf("--initial-cluster has %s=%s but --initial-advertise-peer-urls has %s: they must agree", c.Name, own, advertised)
	}
	if len(urls) > 1 {
		return nil, fmt.Errorf("--initial-cluster names %d members: clusters of several members are not supported yet", len(urls))
	}
	f := &founders{}
	for name, list := range urls {
		m := &pb.Member{ID: store.MemberID(list.StringSlice(), c.InitialClusterToken), Name: name, PeerURLs: list.StringSlice()}
		if name == c.Name {
			f.id = m.ID
		}
		f.members = append(f.members, m)
	}
	return f, nil
}

// self returns who this member is.
func (f *founders) self() keyring.Member {
	ids := make([]uint64, len(f.members))
	for i, m := range f.members {
		ids[i] = m.ID
	}
	return keyring.Member{ClusterID: store.ClusterID(ids), MemberID: f.id}
}
