package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/store"
)

type kvServer struct {
	*API
	pb.UnsafeKVServer
}

var _ pb.KVServer = kvServer{}

// Range is part of pb.KVServer; what gRPC calls is rangeRaw.
func (s kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	a, err := s.rangeRaw(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := new(pb.RangeResponse)
	return resp, copyInto(resp, a)
}

func (s kvServer) rangeRaw(ctx context.Context, r *pb.RangeRequest) (any, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	start := time.Now()
	a, err := s.readRange(ctx, r)
	rangeSeconds.observe(start, err)
	if err != nil {
		return nil, toStatus(err)
	}
	s.fill(a.Header)
	s.warnSlowRead("read-only range ", start, int64(a.Len()), a)
	return a, nil
}

func (s kvServer) readRange(ctx context.Context, r *pb.RangeRequest) (rangeAnswer, error) {
	if !r.Serializable {
		if err := s.node.ReadIndex(ctx); err != nil {
			return rangeAnswer{}, err
		}
	}
	var a store.RangeAnswer
	err := s.permitted(ctx,
		func(u *auth.State, c auth.Caller) error { return u.CheckRead(c, r.Key, r.RangeEnd) },
		func() (err error) { a, err = s.store.RangeRaw(ctx, r); return err })
	return rangeAnswer{a}, err
}

func (s kvServer) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	ctx := stream.Context()
	if !r.Serializable {
		if err := s.node.ReadIndex(ctx); err != nil {
			return toStatus(err)
		}
	}
	var sendErr error
	err := s.permitted(ctx,
		func(u *auth.State, c auth.Caller) error { return u.CheckRead(c, r.Key, r.RangeEnd) },
		func() error {
			return s.store.RangeStream(ctx, r, s.o.MaxRequestBytes, func(chunk store.RangeAnswer) error {
				if chunk.Header != nil {
					s.fillMember(chunk.Header)
				}
				sendErr = stream.SendMsg(newRangeChunk(rangeAnswer{chunk}))
				return sendErr
			})
		})
	if sendErr != nil {
		return sendErr
	}
	return toStatus(err)
}

func (s kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.PutResponse](ctx, s.API, &pb.InternalRaftRequest{Put: r})
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.DeleteRangeResponse](ctx, s.API, &pb.InternalRaftRequest{DeleteRange: r})
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, s.o.MaxTxnOps); err != nil {
		return nil, err
	}
	if reads, linearizable := readsOnly(r); reads {
		start := time.Now()
		resp, err := s.readTxn(ctx, r, linearizable)
		readTxnSeconds.observe(start, err)
		if err != nil {
			return nil, toStatus(err)
		}
		s.warnSlowRead("read-only txn ", start, int64(len(resp.Responses)), resp)
		s.fill(resp.Header)
		return resp, nil
	}
	resp, err := propose[*pb.TxnResponse](ctx, s.API, &pb.InternalRaftRequest{Txn: r})
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s kvServer) readTxn(ctx context.Context, r *pb.TxnRequest, linearizable bool) (*pb.TxnResponse, error) {
	if linearizable {
		if err := s.node.ReadIndex(ctx); err != nil {
			return nil, err
		}
	}
	var resp *pb.TxnResponse
	err := s.permitted(ctx,
		func(u *auth.State, c auth.Caller) error { return u.AuthorizeTxn(c, s.store.Lessor(), r) },
		func() (err error) { resp, err = s.store.ReadTxn(ctx, r); return err })
	return resp, err
}

// readsOnly tells whether a transaction can be answered without the log, which holds if its operations are all ranges,
// and whether it must wait for a read index first, which it need not if all of them are serializable. (etcd answers a
// transaction that only compares from what it has; here that is a linearizable read.)
func readsOnly(r *pb.TxnRequest) (reads, linearizable bool) {
	linearizable = len(r.Success)+len(r.Failure) == 0
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			rr := op.GetRequestRange()
			if rr == nil {
				return false, false
			}
			linearizable = linearizable || !rr.Serializable
		}
	}
	return true, linearizable
}

func (s kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.CompactionResponse](ctx, s.API, &pb.InternalRaftRequest{Compaction: r})
	if err != nil {
		return nil, err
	}
	if r.Physical {
		if err := s.store.DB().WaitCompacted(ctx, r.Revision); err != nil {
			return nil, toStatus(err)
		}
		if err := s.store.DB().Reclaim(ctx); err != nil {
			return nil, toStatus(err)
		}
	}
	// The header tells where the store is now, not where it was when the compaction was applied.
	resp.Header = s.header()
	return resp, nil
}

// propose replicates a request on behalf of its caller and returns its response.
func propose[R proto.Message](ctx context.Context, a *API, r *pb.InternalRaftRequest) (R, error) {
	resp, err := a.propose(ctx, r)
	if err != nil {
		var none R
		return none, err
	}
	return resp.(R), nil
}

// proposeAs is propose on behalf of a user who is known already.
func proposeAs[R proto.Message](ctx context.Context, a *API, c auth.Caller, r *pb.InternalRaftRequest) (R, error) {
	resp, err := a.proposeAs(ctx, c, r)
	if err != nil {
		var none R
		return none, err
	}
	return resp.(R), nil
}

func (a *API) propose(ctx context.Context, r *pb.InternalRaftRequest) (proto.Message, error) {
	c, err := a.user(ctx, a.store.Auth())
	if err != nil {
		return nil, toStatus(err)
	}
	return a.proposeAs(ctx, c, r)
}

func (a *API) proposeAs(ctx context.Context, c auth.Caller, r *pb.InternalRaftRequest) (proto.Message, error) {
	r.Header = &pb.RequestHeader{Username: c.Name, AuthRevision: c.Revision}
	res, err := a.node.Propose(ctx, r)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return res.Response, nil
}
