package store

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/lease"
)

// The lessor is changed while a batch is being put together, before its
// commit: the entries are committed in the log already, and if writing them
// fails the member ends.

func leaseKey(id int64) []byte { return idKey(uint64(id)) }

func (b *batch) hasLease(id int64) bool {
	_, ok := b.s.lessor.Lookup(id)
	return ok
}

func (b *batch) setLease(r lease.Record) {
	b.mv.SetMeta(spaceLease, leaseKey(r.ID), r.Append(nil))
}

// moveKey attaches a key that hung on lease from to lease to; 0 is none.
func (b *batch) moveKey(key []byte, from, to int64) {
	if from == to {
		return
	}
	if from != 0 {
		b.s.lessor.Detach(from, key)
	}
	if to != 0 {
		// A put with ignore_lease keeps the number of a lease even if it is
		// gone, which only a store that was filled from elsewhere can hold.
		_ = b.s.lessor.Attach(to, key)
	}
}

func (b *batch) applyLeaseGrant(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	rec, err := b.s.lessor.Grant(r.ID, r.TTL)
	if err != nil {
		return nil, err
	}
	b.setLease(rec)
	return &pb.LeaseGrantResponse{Header: b.header(), ID: rec.ID, TTL: rec.TTL}, nil
}

// applyLeaseRevoke deletes the lease and, as one revision, its keys.
func (b *batch) applyLeaseRevoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	keys, err := b.s.lessor.Revoke(r.ID)
	if err != nil {
		return nil, err
	}
	b.mv.DeleteMeta(spaceLease, leaseKey(r.ID))
	t := b.begin()
	for _, k := range keys {
		t.delete([]byte(k), nil)
	}
	t.End()
	return &pb.LeaseRevokeResponse{Header: b.header()}, nil
}

// applyLeaseCheckpoint notes what remains of leases. Leases that have ended
// meanwhile are passed over.
func (b *batch) applyLeaseCheckpoint(r *pb.LeaseCheckpointRequest) (*pb.LeaseCheckpointResponse, error) {
	for _, c := range r.Checkpoints {
		if rec, ok := b.s.lessor.Checkpoint(c.ID, c.Remaining_TTL); ok {
			b.setLease(rec)
		}
	}
	return &pb.LeaseCheckpointResponse{Header: b.header()}, nil
}
