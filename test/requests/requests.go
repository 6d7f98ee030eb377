// Package requests makes random requests for tests: few keys and many options,
// so that requests meet each other's work.
package requests

import (
	"bytes"
	"math"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Generator makes one sequence of requests out of a seed. It is for one
// goroutine.
type Generator struct {
	rng      *rand.Rand
	revision int64
}

// New returns a generator. Equal seeds give equal sequences, as long as
// Observe is told the same.
func New(seed uint64) *Generator {
	return &Generator{rng: rand.New(rand.NewPCG(seed, seed)), revision: 1}
}

// Observe tells the generator of a revision that the store has reached, so
// that it asks for revisions near it.
func (g *Generator) Observe(revision int64) { g.revision = max(g.revision, revision) }

// Rand returns the source of the generator, for decisions that belong to the
// same sequence.
func (g *Generator) Rand() *rand.Rand { return g.rng }

// one is true once in n times.
func (g *Generator) one(n int) bool { return g.rng.IntN(n) == 0 }

func pick[T any](g *Generator, of ...T) T { return of[g.rng.IntN(len(of))] }

// Next returns the next request: a put, deletion, range, transaction,
// compaction, or the grant or end of a lease.
func (g *Generator) Next() *pb.InternalRaftRequest {
	r := &pb.InternalRaftRequest{}
	switch n := g.rng.IntN(100); {
	case n < 30:
		r.Put = g.Put()
	case n < 40:
		r.DeleteRange = g.DeleteRange()
	case n < 60:
		r.Range = g.Range()
	case n < 92:
		r.Txn = g.Txn(3)
	case n < 93:
		r.Compaction = &pb.CompactionRequest{Revision: g.compactRevision()}
	case n < 97:
		r.LeaseGrant = &pb.LeaseGrantRequest{ID: g.rng.Int64N(maxLease) + 1, TTL: 10_000 + g.rng.Int64N(10_000)}
		if g.one(20) {
			r.LeaseGrant.TTL = 9_000_000_001
		}
	default:
		r.LeaseRevoke = &pb.LeaseRevokeRequest{ID: g.rng.Int64N(maxLease) + 1}
	}
	return r
}

// Leases have the ids 1 to maxLease.
const maxLease = 5

// lease is none, one that may exist, or one that never does.
func (g *Generator) lease() int64 {
	switch {
	case !g.one(3):
		return 0
	case g.one(20):
		return 77
	}
	return g.rng.Int64N(maxLease) + 1
}

var keys = [][]byte{
	[]byte("a"), []byte("a\x00"), []byte("a\x00b"), []byte("a/1"), []byte("a/2"), []byte("a\xff"),
	[]byte("b"), []byte("b/"), []byte("ba"), []byte("c"), []byte("\x00"), []byte("\xff"), []byte("\xff\xff"),
	bytes.Repeat([]byte("long"), 100),
}

// Key returns one of few keys.
func (g *Generator) Key() []byte { return bytes.Clone(pick(g, keys...)) }

// Keys returns a key or range, empty ones and those of all keys included.
func (g *Generator) Keys() (key, end []byte) {
	key = g.Key()
	switch g.rng.IntN(8) {
	case 0:
		end = []byte{0}
	case 1:
		end = append(bytes.Clone(key), 0)
	case 2:
		end = bytes.Clone(key)
		if end[len(end)-1]++; end[len(end)-1] == 0 {
			end = []byte{0}
		}
	case 3:
		end = g.Key()
	}
	return key, end
}

// Value returns a value: often one of few, sometimes a large one.
func (g *Generator) Value() []byte {
	switch {
	case g.one(50):
		return bytes.Repeat([]byte{byte(g.rng.Uint32())}, g.rng.IntN(4000))
	case g.one(5):
		return nil
	}
	return []byte{byte('0' + g.rng.IntN(4))}
}

// Revision returns one near the current, and sometimes one that cannot be.
func (g *Generator) Revision() int64 {
	switch g.rng.IntN(20) {
	case 0:
		return pick[int64](g, -1, 1, math.MaxInt64, math.MinInt64)
	case 1:
		return g.revision + 1 + g.rng.Int64N(3)
	}
	return max(g.revision-g.rng.Int64N(20), 0)
}

func (g *Generator) compactRevision() int64 {
	if g.one(4) {
		return g.Revision()
	}
	return max(g.revision-g.rng.Int64N(50), 1)
}

// Put returns a put that is well-formed but for once in a while.
func (g *Generator) Put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.Key(), Value: g.Value(), Lease: g.lease(), PrevKv: g.one(4)}
	if g.one(8) {
		r.IgnoreValue = true
		if !g.one(10) {
			r.Value = nil
		}
	}
	if g.one(8) {
		r.IgnoreLease = true
		if !g.one(10) {
			r.Lease = 0
		}
	}
	if g.one(200) {
		r.Key = nil
	}
	return r
}

// DeleteRange returns a deletion.
func (g *Generator) DeleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.one(2)}
	r.Key, r.RangeEnd = g.Keys()
	if !g.one(3) {
		r.RangeEnd = nil
	}
	if g.one(200) {
		r.Key = nil
	}
	return r
}

// Range returns a range with any combination of options.
func (g *Generator) Range() *pb.RangeRequest {
	r := &pb.RangeRequest{KeysOnly: g.one(6), CountOnly: g.one(10), Serializable: g.one(2)}
	r.Key, r.RangeEnd = g.Keys()
	if g.one(3) {
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	}
	if g.one(3) {
		r.Limit = pick[int64](g, -1, 1, 1, 2, 3, 5, 100, math.MaxInt64)
	}
	if g.one(3) {
		r.Revision = g.Revision()
	}
	if g.one(3) {
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
	}
	if g.one(6) {
		for _, f := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
			if g.one(2) {
				*f = g.Revision()
			}
		}
	}
	if g.one(200) {
		r.Key = nil
	}
	if g.one(200) {
		r.SortTarget = 17
	}
	return r
}

// ReadTxn returns a transaction of ranges only.
func (g *Generator) ReadTxn() *pb.TxnRequest {
	r := &pb.TxnRequest{Compare: g.compares()}
	for _, ops := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.rng.IntN(3) {
			*ops = append(*ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.Range()}})
		}
	}
	return r
}

// Txn returns a transaction with up to depth levels.
func (g *Generator) Txn(depth int) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: g.compares(), Success: g.ops(depth), Failure: g.ops(depth)}
}

func (g *Generator) ops(depth int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for range g.rng.IntN(4) {
		op := &pb.RequestOp{}
		switch n := g.rng.IntN(20); {
		case n < 8:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: g.Put()}
		case n < 11:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.DeleteRange()}
		case n < 15:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: g.Range()}
		case n < 19 && depth > 1:
			op.Request = &pb.RequestOp_RequestTxn{RequestTxn: g.Txn(depth - 1)}
		default:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}
		}
		ops = append(ops, op)
	}
	return ops
}

func (g *Generator) compares() []*pb.Compare {
	var cs []*pb.Compare
	for range g.rng.IntN(3) {
		c := &pb.Compare{
			Target: pb.Compare_CompareTarget(g.rng.IntN(5)),
			Result: pb.Compare_CompareResult(g.rng.IntN(4)),
		}
		c.Key, c.RangeEnd = g.Keys()
		switch c.Target {
		case pb.Compare_VALUE:
			c.TargetUnion = &pb.Compare_Value{Value: g.Value()}
		case pb.Compare_CREATE:
			c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.compareRevision()}
		case pb.Compare_MOD:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.compareRevision()}
		case pb.Compare_VERSION:
			c.TargetUnion = &pb.Compare_Version{Version: g.rng.Int64N(4)}
		case pb.Compare_LEASE:
			c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
		}
		if g.one(50) {
			c.TargetUnion = nil
		}
		cs = append(cs, c)
	}
	return cs
}

func (g *Generator) compareRevision() int64 {
	if g.one(2) {
		return 0
	}
	return g.Revision()
}
