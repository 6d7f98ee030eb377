package api

import (
	"bytes"
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/v3electionpb"
)

// electionServer is etcd's Election service: the oldest place in the queue of a name is the leader, and what the place
// holds is what the leader proclaims.
type electionServer struct {
	c *coordinator
	v3electionpb.UnsafeElectionServer
}

var _ v3electionpb.ElectionServer = electionServer{}

var (
	errNoLeaderKey = errors.New(`"leader" field must be provided`)
	errNotElected  = errors.New("election: not leader")
	errNobodyLeads = errors.New("election: no leader")
)

func (s electionServer) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	ctx = onBehalf(ctx)
	p, holds, header, err := s.c.queue(ctx, r.Name, r.Value, r.Lease)
	if err != nil {
		return nil, coordinationError(err)
	}
	if !bytes.Equal(holds, r.Value) { // the place was taken before, with another value
		if _, err = s.proclaim(ctx, p, r.Value); err != nil {
			_, _ = s.resign(context.WithoutCancel(ctx), p)
			return nil, coordinationError(err)
		}
	}
	if _, err := s.c.awaitTurn(ctx, r.Name, p); err != nil {
		if ctx.Err() != nil { // whoever does not wait any more must not become the leader
			_, _ = s.resign(context.WithoutCancel(ctx), p)
		}
		return nil, coordinationError(err)
	}
	return &v3electionpb.CampaignResponse{
		Header: header,
		Leader: &v3electionpb.LeaderKey{Name: r.Name, Key: p.key, Rev: p.rev, Lease: p.lease},
	}, nil
}

func (s electionServer) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderKey
	}
	header, err := s.proclaim(onBehalf(ctx), placeHeld(r.Leader), r.Value)
	if err != nil {
		return nil, coordinationError(err)
	}
	return &v3electionpb.ProclaimResponse{Header: header}, nil
}

func (s electionServer) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderKey
	}
	header, err := s.resign(onBehalf(ctx), placeHeld(r.Leader))
	if err != nil {
		return nil, coordinationError(err)
	}
	return &v3electionpb.ResignResponse{Header: header}, nil
}

func placeHeld(k *v3electionpb.LeaderKey) place { return place{key: k.Key, lease: k.Lease, rev: k.Rev} }

func (s electionServer) proclaim(ctx context.Context, p place, value []byte) (*pb.ResponseHeader, error) {
	header, same, err := s.c.change(ctx, p, putOp(&pb.PutRequest{Key: p.key, Value: value, Lease: p.lease}))
	if err == nil && !same {
		err = errNotElected
	}
	return header, err
}

// resign is no error for a leadership that has ended already.
func (s electionServer) resign(ctx context.Context, p place) (*pb.ResponseHeader, error) {
	header, _, err := s.c.change(ctx, p, deleteOp(p.key))
	return header, err
}

func (s electionServer) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	first, err := s.c.first(onBehalf(ctx), r.Name)
	if err != nil {
		return nil, coordinationError(err)
	}
	if len(first.Kvs) == 0 {
		return nil, errNobodyLeads
	}
	return &v3electionpb.LeaderResponse{Header: first.Header, Kv: first.Kvs[0]}, nil
}

// Observe ends without an error whatever ends it, the end of the caller's own context excepted; so does etcd's.
func (s electionServer) Observe(r *v3electionpb.LeaderRequest, stream v3electionpb.Election_ObserveServer) error {
	ctx := onBehalf(stream.Context())
	var sendErr error
	send := func(header *pb.ResponseHeader, kv *mvccpb.KeyValue) error {
		sendErr = stream.Send(&v3electionpb.LeaderResponse{Header: header, Kv: kv})
		return sendErr
	}
	for {
		if err := s.observeLeader(ctx, r.Name, send); err != nil {
			if sendErr != nil {
				return sendErr
			}
			return ctx.Err()
		}
	}
}

// observeLeader sends what the leader proclaims, if there is none yet the first one, until it leads no more.
func (s electionServer) observeLeader(ctx context.Context, name []byte, send func(*pb.ResponseHeader, *mvccpb.KeyValue) error) error {
	first, err := s.c.first(ctx, name)
	if err != nil {
		return err
	}
	var (
		header = first.Header
		kv     *mvccpb.KeyValue
	)
	if len(first.Kvs) > 0 {
		kv = first.Kvs[0]
	} else {
		prefix := prefixOf(name)
		err := s.c.events(ctx, prefix, endOf(prefix), header.Revision, func(h *pb.ResponseHeader, e *mvccpb.Event) (bool, error) {
			if e.Type != mvccpb.Event_PUT {
				return true, nil
			}
			// The header may speak of a later revision than that of this event, and the next watch begins after it.
			header, kv = h, e.Kv
			header.Revision = kv.ModRevision
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	if err := send(header, kv); err != nil {
		return err
	}
	return s.c.events(ctx, kv.Key, nil, header.Revision+1, func(h *pb.ResponseHeader, e *mvccpb.Event) (bool, error) {
		if e.Type == mvccpb.Event_DELETE {
			return false, nil
		}
		return true, send(h, e.Kv)
	})
}
