package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// coordinator is what locks and elections have in common: queues of keys under a prefix, each attached to the lease of
// its owner, in the order in which they were created. The layout is that of etcd's client library, so that clients which
// queue by themselves and those that ask a member to do it meet in the same queue.
//
// It is a client of this member's own services, and not of the layers below, so that all that is checked for a client
// that does the same by itself is checked here. Every request, watches included, is made in the name of the caller. (That
// is why it is not etcd's client library: that one shares a stream of watches between callers.)
type coordinator struct {
	kv     pb.KVClient
	leases pb.LeaseClient
	watch  pb.WatchClient
}

func newCoordinator(conn *localConn) *coordinator {
	return &coordinator{pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn)}
}

// leaseTTL is the TTL in seconds of the lease that a caller gets who has none.
const leaseTTL = 60

// onBehalf makes a request's context one for requests of its caller.
func onBehalf(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	return metadata.NewOutgoingContext(ctx, md)
}

// coordinationError is err as etcd's client library would give it to etcd's implementation of these services, which
// returns it: what has a text of etcd's loses its code.
func coordinationError(err error) error {
	var known rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &known) {
		return status.Error(codes.Unknown, known.Error())
	}
	return err
}

// place is a key in a queue.
type place struct {
	key   []byte
	lease int64
	rev   int64 // in which it was created
}

// prefixOf is where the queue of a name is.
func prefixOf(name []byte) []byte { return append(name[:len(name):len(name)], '/') }

// queue takes the place in the queue of name that belongs to lease, or to a new lease for 0, and finds it if it was taken
// before. value is what a new place holds. It returns the value that it holds now.
func (c *coordinator) queue(ctx context.Context, name, value []byte, lease int64) (place, []byte, *pb.ResponseHeader, error) {
	if lease == 0 {
		granted, err := c.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: leaseTTL})
		if err != nil {
			return place{}, nil, nil, err
		}
		lease = granted.ID
	}
	p := place{key: fmt.Appendf(prefixOf(name), "%x", lease), lease: lease}
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdIn(p.key, 0)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: p.key, Value: value, Lease: lease})},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: p.key}}}},
	})
	if err != nil {
		return place{}, nil, nil, err
	}
	p.rev = resp.Header.Revision
	if !resp.Succeeded {
		before := resp.Responses[0].GetResponseRange().Kvs[0]
		p.rev, value = before.CreateRevision, before.Value
	}
	return p, value, resp.Header, nil
}

// change does op if the place is still the same. It reports whether it was.
func (c *coordinator) change(ctx context.Context, p place, op *pb.RequestOp) (*pb.ResponseHeader, bool, error) {
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{createdIn(p.key, p.rev)}, Success: []*pb.RequestOp{op}})
	if err != nil {
		return nil, false, err
	}
	return resp.Header, resp.Succeeded, nil
}

func createdIn(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

// awaitTurn waits until no place in the queue of name is older than p, and reports whether it had to. It watches one key
// at a time, the next older one, so that a place that is given up wakes one caller and not all of them.
func (c *coordinator) awaitTurn(ctx context.Context, name []byte, p place) (waited bool, err error) {
	for {
		resp, err := c.edge(ctx, name, pb.RangeRequest_DESCEND, p.rev-1)
		if err != nil || len(resp.Kvs) == 0 {
			return waited, err
		}
		waited = true
		err = c.events(ctx, resp.Kvs[0].Key, nil, resp.Header.Revision, func(_ *pb.ResponseHeader, e *mvccpb.Event) (bool, error) {
			return e.Type != mvccpb.Event_DELETE, nil
		})
		if err != nil {
			return waited, err
		}
	}
}

// first returns the oldest place in the queue of name, if there is one.
func (c *coordinator) first(ctx context.Context, name []byte) (*pb.RangeResponse, error) {
	return c.edge(ctx, name, pb.RangeRequest_ASCEND, 0)
}

// edge returns the oldest or, descending, the youngest place that was created not later than in maxRev; 0 is no bound.
func (c *coordinator) edge(ctx context.Context, name []byte, order pb.RangeRequest_SortOrder, maxRev int64) (*pb.RangeResponse, error) {
	prefix := prefixOf(name)
	return c.kv.Range(ctx, &pb.RangeRequest{
		Key: prefix, RangeEnd: endOf(prefix), Limit: 1,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: order, MaxCreateRevision: maxRev,
	})
}

// endOf is where the keys with a prefix end.
func endOf(prefix []byte) []byte { return []byte(clientv3.GetPrefixRangeEnd(string(prefix))) }

// events gives every event of a range from a revision on to take, until that wants no more.
func (c *coordinator) events(ctx context.Context, key, end []byte, from int64, take func(*pb.ResponseHeader, *mvccpb.Event) (more bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := c.watch.Watch(ctx)
	if err != nil {
		return err
	}
	create := &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: from}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	if err != nil && err != io.EOF { // of an end Recv says why
		return err
	}
	for {
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return err
		case resp.CompactRevision != 0:
			return rpctypes.ErrGRPCCompacted
		case resp.Canceled:
			return status.Error(codes.FailedPrecondition, resp.CancelReason)
		}
		for _, e := range resp.Events {
			if more, err := take(resp.Header, e); err != nil || !more {
				return err
			}
		}
	}
}
