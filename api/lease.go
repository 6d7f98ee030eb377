package api

import (
	"context"
	"errors"
	"io"

	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/lease"
)

type leaseServer struct {
	*API
	pb.UnsafeLeaseServer
}

var _ pb.LeaseServer = leaseServer{}

func (s leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.permitKnown(ctx); err != nil {
		return nil, err
	}
	lease.Prepare(r, lease.MinTTL(s.o.ElectionTicks, s.o.Tick))
	resp, err := propose[*pb.LeaseGrantResponse](ctx, s.API, &pb.InternalRaftRequest{LeaseGrant: r})
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.permitKnown(ctx); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.LeaseRevokeResponse](ctx, s.API, &pb.InternalRaftRequest{LeaseRevoke: r})
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	users := s.store.Auth()
	c, err := s.user(ctx, users)
	if err == nil {
		err = users.CheckKnown(c)
	}
	if err == nil && r.Keys {
		err = users.CheckLeaseRead(c, s.store.Lessor(), r.ID)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	resp, err := s.node.LeaseTimeToLive(ctx, r.ID, r.Keys)
	if err == nil && r.Keys {
		now := s.store.Auth()
		if err = now.CheckSame(users); err == nil {
			err = now.CheckLeaseKeys(c, resp.Keys)
		}
	}
	switch {
	case errors.Is(err, lease.ErrNotFound):
		resp = &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}
	case err != nil:
		return nil, toStatus(err)
	}
	resp.Header = s.header()
	return resp, nil
}

func (s leaseServer) LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	users := s.store.Auth()
	c, err := s.user(ctx, users)
	if err == nil {
		err = users.CheckKnown(c)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &pb.LeaseLeasesResponse{Header: s.header()}
	for _, id := range s.store.Lessor().Leases() {
		if err := users.CheckLeaseRead(c, s.store.Lessor(), id); err != nil {
			return nil, toStatus(err)
		}
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, toStatus(s.store.Auth().CheckSame(users))
}

func (s leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ctx := stream.Context()
	ended := make(chan error, 1)
	// Receiving does not end with the stream's context if that ends for want of a leader, only when this method has
	// returned.
	go func() { ended <- s.keepAlive(ctx, stream) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s leaseServer) keepAlive(ctx context.Context, stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			s.streamFailed(ctx, "receive", "lease-keepalive", err)
			return err
		}
		// The header is made first, so that its revision is one at which the lease still was: the client must not be
		// told of a renewal at a revision after the one that revoked the lease.
		resp := &pb.LeaseKeepAliveResponse{ID: r.ID, Header: s.header()}
		if err = s.permitRenewal(ctx, r.ID); err == nil {
			resp.TTL, err = s.node.LeaseRenew(ctx, r.ID)
		}
		switch {
		case errors.Is(err, lease.ErrNotFound):
			resp.TTL = 0
		case err != nil:
			return toStatus(err)
		}
		if err := stream.Send(resp); err != nil {
			s.streamFailed(ctx, "send", "lease-keepalive", err)
			return err
		}
	}
}

// permitRenewal checks whether a lease may be renewed: the caller must be able to write all its keys.
func (s leaseServer) permitRenewal(ctx context.Context, id int64) error {
	if !s.store.Auth().Enabled() {
		return nil
	}
	if _, ok := s.store.Lessor().Lookup(id); !ok {
		// It may just be on its way, with keys.
		if err := s.node.WaitApplied(ctx); err != nil {
			return err
		}
	}
	users := s.store.Auth()
	c, err := s.user(ctx, users)
	if err == nil {
		err = users.CheckKnown(c)
	}
	if err == nil {
		err = users.CheckLeaseWrite(c, s.store.Lessor(), id)
	}
	if err == nil {
		err = s.store.Auth().CheckSame(users)
	}
	return err
}

// streamFailed records that a stream of the given API could not be read or written.
func (a *API) streamFailed(ctx context.Context, what, api string, err error) {
	level := zap.WarnLevel
	if leftByClient(ctx, err) {
		level = zap.DebugLevel
	} else {
		streamFailures.WithLabelValues(what, api).Inc()
	}
	a.log.Log(level, "failed to "+what+" on gRPC stream", zap.String("api", api), zap.Error(err))
}
