package raftnode

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/store"
)

// forwardRetry is the pause between attempts to have another member answer.
const forwardRetry = 50 * time.Millisecond

// runLeases is the leader's duty to end leases, and to checkpoint what is left
// of them. What it proposes holds for its own term only: the next leader has a
// clock of its own.
func (n *Node) runLeases() {
	ticker := time.NewTicker(lease.ExpiryPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.ctx.Done():
			return
		}
		if n.leadsIn() != 0 {
			n.revokeExpired()
			n.checkpointLeases()
		}
	}
}

func (n *Node) revokeExpired() {
	ids := n.o.Store.Lessor().Expired(lease.ExpiryLimit)
	if len(ids) == 0 {
		return
	}
	ctx, cancel := n.dutyContext()
	defer cancel()
	term, err := n.confirmLeadership(ctx)
	if err != nil {
		n.lg.Warn("left expired leases alone, as this member may not lead any more", zap.Int("leases", len(ids)), zap.Error(err))
		return
	}
	rs := make([]*pb.InternalRaftRequest, len(ids))
	for i, id := range ids {
		rs[i] = &pb.InternalRaftRequest{
			Header:      &pb.RequestHeader{Username: auth.Root}, // whose keys they have does not matter
			LeaseRevoke: &pb.LeaseRevokeRequest{ID: id},
		}
	}
	for i, res := range n.proposeAll(rs, term) {
		switch {
		case res.Err == nil:
			leasesExpired.Inc()
		case errors.Is(res.Err, lease.ErrNotFound): // revoked by a client meanwhile
		case n.ctx.Err() == nil:
			n.lg.Warn("failed to revoke lease", zap.String("lease-id", idString(uint64(ids[i]))), zap.Error(res.Err))
		}
	}
}

func (n *Node) checkpointLeases() {
	lessor := n.o.Store.Lessor()
	for {
		due := lessor.DueCheckpoints(lease.CheckpointLimit)
		if len(due) == 0 {
			return
		}
		ctx, cancel := n.dutyContext()
		term, err := n.confirmLeadership(ctx)
		cancel()
		if err != nil {
			lessor.DropCheckpoints(due)
			n.lg.Warn("left leases without checkpoint, as this member may not lead any more", zap.Int("leases", len(due)), zap.Error(err))
			return
		}
		cp := &pb.LeaseCheckpointRequest{}
		for _, r := range due {
			cp.Checkpoints = append(cp.Checkpoints, &pb.LeaseCheckpoint{ID: r.ID, Remaining_TTL: r.Remaining})
		}
		// An answer comes as soon as the request has been applied, or this
		// member no longer leads, which ends all time on this member. An error
		// while it leads says that the request did not get into the log:
		// renewals must not wait for it.
		if err := n.proposeAll([]*pb.InternalRaftRequest{{LeaseCheckpoint: cp}}, term)[0].Err; err != nil {
			lessor.DropCheckpoints(due)
			n.lg.Warn("left leases without checkpoint", zap.Int("leases", len(due)), zap.Error(err))
			return
		}
	}
}

// proposeAll proposes requests while this member leads in the given term, and
// waits for all outcomes as long as it does.
func (n *Node) proposeAll(rs []*pb.InternalRaftRequest, term uint64) []store.Result {
	ps := make([]*proposal, len(rs))
	for i, r := range rs {
		ps[i] = n.newProposal(r, term)
		if !n.in.propose(ps[i]) {
			ps[i].finish(store.Result{}, ErrStopped)
		}
	}
	results := make([]store.Result, len(rs))
	for i, p := range ps {
		<-p.done
		if results[i] = p.result; p.err != nil {
			results[i].Err = p.err
		}
	}
	return results
}

// LeaseRenew extends a lease to its full time to live and returns that, in
// seconds. Only the leader knows the time, and it must be sure to lead.
func (n *Node) LeaseRenew(ctx context.Context, id int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, n.RequestTimeout())
	defer cancel()
	for {
		if n.leader.Load() == n.o.ID {
			ttl, err := n.renewAsLeader(ctx, id)
			if !errors.Is(err, lease.ErrNotPrimary) {
				return ttl, err
			}
		}
		if err := n.awaitLeader(ctx); err != nil {
			return 0, err
		}
	}
}

func (n *Node) renewAsLeader(ctx context.Context, id int64) (int64, error) {
	term, err := n.confirmLeadership(ctx)
	if errors.Is(err, ErrNotLeader) {
		return 0, lease.ErrNotPrimary
	} else if err != nil {
		return 0, err
	}
	lessor := n.o.Store.Lessor()
	if _, ok := lessor.Lookup(id); !ok {
		// It may just be on its way.
		if err := n.WaitApplied(ctx); err != nil {
			return 0, err
		}
	}
	return lessor.Renew(ctx, id, func(context.Context) error {
		cp := &pb.LeaseCheckpointRequest{Checkpoints: []*pb.LeaseCheckpoint{{ID: id}}}
		res := n.proposeAll([]*pb.InternalRaftRequest{{LeaseCheckpoint: cp}}, term)
		return res[0].Err
	})
}

// LeaseTimeToLive returns what is left of a lease, and its keys if wanted. The
// header is empty.
func (n *Node) LeaseTimeToLive(ctx context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, n.RequestTimeout())
	defer cancel()
	for {
		if n.leader.Load() == n.o.ID {
			if err := n.WaitApplied(ctx); err != nil {
				return nil, err
			}
			t, err := n.o.Store.Lessor().TimeToLive(id, keys)
			if err == nil {
				resp := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: id, TTL: t.Remaining, GrantedTTL: t.Granted}
				for _, k := range t.Keys {
					resp.Keys = append(resp.Keys, []byte(k))
				}
				return resp, nil
			}
			if !errors.Is(err, lease.ErrNotPrimary) {
				return nil, err
			}
		}
		if err := n.awaitLeader(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitLeader pauses until it is worth asking the leader again.
func (n *Node) awaitLeader(ctx context.Context) error {
	if _, err := n.waitLeader(ctx); err != nil {
		return err
	}
	t := time.NewTimer(forwardRetry)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-n.ctx.Done():
		return ErrStopped
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return ErrCanceled
		}
		return ErrTimeout
	}
}
