package raftnode

import (
	"fmt"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// publish tells the cluster this member's name and client URLs, as often as it
// takes. With that it has written as a member, and is ready to serve.
func (n *Node) publish() {
	r := &membershippb.ClusterMemberAttrSetRequest{
		Member_ID:        n.o.ID,
		MemberAttributes: &membershippb.Attributes{Name: n.o.Name, ClientUrls: n.o.ClientURLs},
	}
	for {
		ctx, cancel := n.dutyContext()
		res, err := n.Propose(ctx, &pb.InternalRaftRequest{ClusterMemberAttrSet: r})
		cancel()
		if err == nil {
			err = res.Err
		}
		if n.ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		n.lg.Warn("failed to publish local member to cluster through raft",
			zap.String("member-id", idString(n.o.ID)), zap.Duration("publish-timeout", n.RequestTimeout()), zap.Error(err))
		if !pause(n.ctx, n.o.Tick) {
			return
		}
	}
	n.lg.Info("published local member to cluster through raft",
		zap.String("member-id", idString(n.o.ID)), zap.String("cluster-id", idString(n.o.ClusterID)),
		zap.String("name", n.o.Name), zap.Strings("client-urls", n.o.ClientURLs))
	close(n.ready)
}

// initialVersion is the cluster version of a new cluster: that of the API, less
// its patch level.
var initialVersion = func() string {
	v := semver.New(version.Version)
	return fmt.Sprintf("%d.%d.0", v.Major, v.Minor)
}()

// keepClusterVersion sets the version of a new cluster. Whichever member leads
// does it.
func (n *Node) keepClusterVersion() {
	for {
		changed := n.LeaderChanged()
		for n.leader.Load() == n.o.ID && n.o.Store.ClusterVersion() == "" {
			n.lg.Info("setting up initial cluster version", zap.String("cluster-version", initialVersion))
			ctx, cancel := n.dutyContext()
			_, err := n.Propose(ctx, &pb.InternalRaftRequest{
				ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: initialVersion},
			})
			cancel()
			if n.ctx.Err() != nil {
				return
			}
			if err != nil {
				n.lg.Warn("failed to set the cluster version", zap.Error(err))
				if !pause(n.ctx, n.o.Tick) {
					return
				}
			}
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return
		}
	}
}
