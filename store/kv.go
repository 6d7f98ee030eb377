package store

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
)

// kvTxn is one request's reading and writing of keys inside a batch.
//
// What a request may be refused for is checked before its first write. After
// that only the disk can fail, which ends the member: such errors are kept in
// the batch, which Apply looks at after every request.
type kvTxn struct {
	*mvcc.Txn
	b     *batch
	wrote bool
}

func (b *batch) begin() *kvTxn { return &kvTxn{Txn: b.mv.Txn(), b: b} }

// header has the revision as of now: the request's own once it has written.
func (t *kvTxn) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: t.revision()} }

func (t *kvTxn) revision() int64 {
	if t.wrote {
		return t.Revision() + 1
	}
	return t.Revision()
}

// CompactRevision is part of reader.
func (t *kvTxn) CompactRevision() int64 { return t.b.mv.CompactRevision() }

// Range is part of reader. Of its errors only those about revisions are the
// request's own. Any other is this member's alone, which must not go on as if
// the request had failed everywhere.
func (t *kvTxn) Range(ctx context.Context, key, end []byte, o mvcc.RangeOptions) (mvcc.RangeResult, error) {
	res, err := t.Txn.Range(ctx, key, end, o)
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) && !errors.Is(err, mvcc.ErrFutureRevision) {
		t.b.fail(err)
	}
	return res, err
}

// rangeKVs reads a whole range at the present state.
func (t *kvTxn) rangeKVs(key, end []byte) []*mvccpb.KeyValue {
	res, _ := t.Range(context.Background(), key, end, mvcc.RangeOptions{})
	return res.KVs
}

// checkPut is everything that a put can be refused for.
func (t *kvTxn) checkPut(r *pb.PutRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrMalformedRequest
	}
	if r.Lease != 0 && !t.b.hasLease(r.Lease) {
		return lease.ErrNotFound
	}
	if r.IgnoreValue || r.IgnoreLease {
		if _, ok := t.Get(r.Key); !ok {
			return ErrKeyNotFound
		}
	}
	return nil
}

func (t *kvTxn) put(r *pb.PutRequest) *pb.PutResponse {
	resp := &pb.PutResponse{}
	value, id := r.Value, r.Lease
	if r.IgnoreLease {
		m, _ := t.Get(r.Key)
		id = m.Lease
	}
	if r.IgnoreValue || r.PrevKv {
		if prev := t.rangeKVs(r.Key, nil); len(prev) != 0 {
			if r.IgnoreValue {
				value = prev[0].Value
			}
			if r.PrevKv {
				resp.PrevKv = prev[0]
			}
		}
	}
	old, _ := t.Put(r.Key, value, id)
	t.wrote = true
	t.b.moveKey(r.Key, old.Lease, id)
	resp.Header = t.header()
	return resp
}

func (t *kvTxn) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	if r.PrevKv {
		resp.PrevKvs = t.rangeKVs(r.Key, r.RangeEnd)
	}
	resp.Deleted = t.delete(r.Key, r.RangeEnd)
	resp.Header = t.header()
	return resp
}

func (t *kvTxn) delete(key, end []byte) int64 {
	deleted := t.DeleteRange(key, end)
	for _, d := range deleted {
		t.b.moveKey(d.Key, d.Meta.Lease, 0)
		t.wrote = true
	}
	return int64(len(deleted))
}

func (b *batch) applyPut(r *pb.PutRequest) (*pb.PutResponse, error) {
	t := b.begin()
	defer t.End()
	if err := t.checkPut(r); err != nil {
		return nil, err
	}
	return t.put(r), nil
}

func (b *batch) applyDeleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, ErrMalformedRequest
	}
	t := b.begin()
	defer t.End()
	return t.deleteRange(r), nil
}

func (b *batch) applyRange(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := wellFormedRange(r); err != nil {
		return nil, err
	}
	t := b.begin()
	defer t.End()
	return executeRange(context.Background(), t, r, t.revision())
}

func (b *batch) applyCompaction(r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if err := b.mv.Compact(r.Revision); err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: b.header()}, nil
}
