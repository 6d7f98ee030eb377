package api

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

type clusterServer struct {
	*API
	pb.UnsafeClusterServer
}

var _ pb.ClusterServer = clusterServer{}

// clusterHeader is the header of membership responses. They have no revision: membership is not part of the key space.
func (s clusterServer) clusterHeader() *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	s.fillMember(h)
	return h
}

func (s clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := types.NewURLs(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	added, members, err := s.node.MemberAdd(ctx, urls.StringSlice(), r.IsLearner)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberAddResponse{
		Header:  s.clusterHeader(),
		Member:  &pb.Member{ID: added.ID, PeerURLs: added.PeerURLs, IsLearner: added.IsLearner},
		Members: members,
	}, nil
}

func (s clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.node.MemberRemove(ctx, r.ID)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberRemoveResponse{Header: s.clusterHeader(), Members: members}, nil
}

func (s clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.node.MemberUpdate(ctx, r.ID, r.PeerURLs)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberUpdateResponse{Header: s.clusterHeader(), Members: members}, nil
}

func (s clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	members, err := s.node.Members(ctx, r.Linearizable)
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.permitKnown(ctx); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: s.clusterHeader(), Members: members}, nil
}

func (s clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.node.MemberPromote(ctx, r.ID)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberPromoteResponse{Header: s.clusterHeader(), Members: members}, nil
}
