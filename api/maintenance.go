package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/raftnode"
)

type maintenanceServer struct {
	*API
	pb.UnsafeMaintenanceServer
}

var _ pb.MaintenanceServer = maintenanceServer{}

func (s maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	permit := s.permitRoot
	if r.Action == pb.AlarmRequest_GET {
		permit = s.permitKnown
	}
	if err := permit(ctx); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.AlarmResponse](ctx, s.API, &pb.InternalRaftRequest{Alarm: r})
	if err != nil {
		return nil, err
	}
	if resp.Header == nil {
		resp.Header = &pb.ResponseHeader{}
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s maintenanceServer) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.permitKnown(ctx); err != nil {
		return nil, err
	}
	st := s.node.Status()
	size, inUse := s.store.DB().Size()
	downgrading, target := s.store.Downgrade()
	resp := &pb.StatusResponse{
		Header:           s.header(),
		Version:          version.Version,
		Leader:           st.Leader,
		RaftIndex:        st.Commit,
		RaftTerm:         st.Term,
		RaftAppliedIndex: st.Applied,
		DbSize:           size,
		DbSizeInUse:      inUse,
		IsLearner:        st.IsLearner,
		StorageVersion:   s.storageVersion(),
		DbSizeQuota:      s.o.QuotaBytes,
		DowngradeInfo:    &pb.DowngradeInfo{Enabled: downgrading, TargetVersion: target},
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, raftnode.ErrNoLeader.Error())
	}
	for _, a := range s.store.Alarms(pb.AlarmType_NONE) {
		resp.Errors = append(resp.Errors, fmt.Sprintf("memberID:%d alarm:%s", a.MemberID, a.Alarm))
	}
	return resp, nil
}

// storageVersion is the version of etcd whose storage the member's own takes the place of, or "" before the cluster has
// agreed on its version.
func (a *API) storageVersion() string { return a.store.ClusterVersion() }

// Defragment returns when the space of compacted versions has been given back. There is nothing else to defragment, and
// requests are served meanwhile.
func (s maintenanceServer) Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	s.log.Info("starting defragment")
	if err := s.store.DB().Reclaim(ctx); err != nil {
		s.log.Warn("failed to defragment", zap.Error(err))
		return nil, toStatus(err)
	}
	s.log.Info("finished defragment")
	return &pb.DefragmentResponse{}, nil
}

func (s maintenanceServer) Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	hash, rev, err := s.store.DB().Hash(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &pb.HashResponse{Header: &pb.ResponseHeader{Revision: rev}, Hash: hash}
	s.fill(resp.Header)
	return resp, nil
}

func (s maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	h, err := s.store.DB().HashKV(ctx, r.Revision)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &pb.HashKVResponse{
		Header:          &pb.ResponseHeader{Revision: h.Current},
		Hash:            h.Hash,
		CompactRevision: h.CompactRevision,
		HashRevision:    h.Revision,
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	if s.node.Status().Leader != s.o.MemberID {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	if err := s.node.TransferLeadership(ctx, r.TargetID); err != nil {
		return nil, toStatus(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

var (
	errUnknownMethod        = errors.New("etcdserver: unknown method")
	errDowngradeFormat      = rpctypes.ErrGRPCWrongDowngradeVersionFormat
	errDowngradeUnavailable = rpctypes.ErrGRPCClusterVersionUnavailable
	errDowngradeTarget      = rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	errDowngradeInProcess   = rpctypes.ErrGRPCDowngradeInProcess
)

// Downgrade keeps the record of a downgrade as etcd's members do: whether one may begin, that it has begun, that it was
// called off. What a downgrade is for, members of the version before that join or take over, is for them to do.
func (s maintenanceServer) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	var err error
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE:
		_, err = s.checkDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_ENABLE:
		var target *semver.Version
		if target, err = s.checkDowngrade(ctx, r.Version); err == nil {
			err = s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: target.String()})
		}
	case pb.DowngradeRequest_CANCEL:
		// etcd answers the cancellation of a downgrade that never began without an error.
		err = s.node.ReadIndex(ctx)
		if enabled, _ := s.store.Downgrade(); err == nil && enabled {
			err = s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{})
		}
	default:
		err = errUnknownMethod
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.DowngradeResponse{Header: s.header(), Version: version.Cluster(s.store.ClusterVersion())}, nil
}

// checkDowngrade tells whether the cluster could be downgraded to a version now.
func (s maintenanceServer) checkDowngrade(ctx context.Context, to string) (*semver.Version, error) {
	target, err := semver.NewVersion(to)
	if err != nil {
		if target, err = semver.NewVersion(to + ".0"); err != nil {
			return nil, errDowngradeFormat
		}
	}
	target = &semver.Version{Major: target.Major, Minor: target.Minor}
	if s.store.ClusterVersion() == "" {
		return nil, errDowngradeUnavailable
	}
	if err := s.node.ReadIndex(ctx); err != nil {
		return nil, err
	}
	current, err := semver.NewVersion(s.store.ClusterVersion())
	if err != nil {
		return nil, fmt.Errorf("reading the cluster version: %w", err)
	}
	if target.Major != current.Major || target.Minor != current.Minor-1 {
		return nil, errDowngradeTarget
	}
	if enabled, _ := s.store.Downgrade(); enabled {
		return nil, errDowngradeInProcess
	}
	return target, nil
}

func (s maintenanceServer) setDowngrade(ctx context.Context, r *membershippb.DowngradeInfoSetRequest) error {
	_, err := s.propose(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: r})
	return err
}
