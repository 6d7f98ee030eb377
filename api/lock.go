package api

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/v3lockpb"
)

// lockServer is etcd's Lock service: the oldest place in the queue of a name owns the lock.
type lockServer struct {
	c *coordinator
	v3lockpb.UnsafeLockServer
}

var _ v3lockpb.LockServer = lockServer{}

var errLockLost = errors.New("mutex: session is expired")

func (s lockServer) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	ctx = onBehalf(ctx)
	p, _, header, err := s.c.queue(ctx, r.Name, nil, r.Lease)
	if err != nil {
		return nil, coordinationError(err)
	}
	waited, err := s.c.awaitTurn(ctx, r.Name, p)
	if err == nil && waited {
		header, err = s.stillQueued(ctx, p)
	}
	if err != nil {
		// Whoever does not wait any more must not hold up those behind.
		_, _ = s.c.kv.DeleteRange(context.WithoutCancel(ctx), &pb.DeleteRangeRequest{Key: p.key})
		return nil, coordinationError(err)
	}
	return &v3lockpb.LockResponse{Header: header, Key: p.key}, nil
}

// stillQueued makes sure that the lease of a place has not ended while the place was waited in.
func (s lockServer) stillQueued(ctx context.Context, p place) (*pb.ResponseHeader, error) {
	resp, err := s.c.kv.Range(ctx, &pb.RangeRequest{Key: p.key})
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, errLockLost
	}
	return resp.Header, nil
}

func (s lockServer) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	resp, err := s.c.kv.DeleteRange(onBehalf(ctx), &pb.DeleteRangeRequest{Key: r.Key})
	if err != nil {
		return nil, coordinationError(err)
	}
	return &v3lockpb.UnlockResponse{Header: resp.Header}, nil
}
