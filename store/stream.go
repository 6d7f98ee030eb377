package store

import (
	"context"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/mvcc"
)

// Range answers a range request from the committed state. Of the header only
// the revision is set. The key-value messages are shared and must not be
// changed.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	a, err := s.answer(ctx, r, false)
	return a.RangeResponse, err
}

// RangeRaw is Range for who passes the answer on over the wire.
func (s *Store) RangeRaw(ctx context.Context, r *pb.RangeRequest) (RangeAnswer, error) {
	return s.answer(ctx, r, true)
}

func (s *Store) answer(ctx context.Context, r *pb.RangeRequest, raw bool) (RangeAnswer, error) {
	start := time.Now()
	v := s.db.View()
	defer v.Close()
	a, err := answerRange(ctx, v, r, v.Revision(), raw)
	observeRange(start, err)
	return a, err
}

// firstChunkKeys is how many keys the first chunk of a RangeStream has: few, so
// that it is soon there.
const firstChunkKeys = 10

// RangeStream answers a range request in chunks of about chunkBytes, each
// handed to send. The revision is pinned when the first chunk is read; only
// the last chunk has a header (the current revision at that time, and nothing
// else), more and count. Each chunk is read anew, so a slow client holds
// nothing back; if its revision is compacted meanwhile, it gets ErrCompacted.
// Requests with a sort order or revision filters are not for it. What a target
// without an order asks for can only be sorted as a whole and comes in one chunk.
func (s *Store) RangeStream(ctx context.Context, r *pb.RangeRequest, chunkBytes int, send func(RangeAnswer) error) error {
	if r.CountOnly || r.SortTarget != pb.RangeRequest_KEY {
		a, err := s.RangeRaw(ctx, r)
		if err != nil {
			return err
		}
		return send(a)
	}
	limit := r.Limit
	if limit == 0 {
		limit = math.MaxInt64
	}
	chunk := &pb.RangeRequest{
		Key: r.Key, RangeEnd: r.RangeEnd, Revision: r.Revision, KeysOnly: r.KeysOnly,
		Limit: min(firstChunkKeys, limit),
	}
	var sent, revision int64
	for {
		a, err := s.RangeRaw(ctx, chunk)
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = a.Header.Revision
			if chunk.Revision == 0 {
				chunk.Revision = revision
			}
		}
		count := sent + a.Count // of this chunk's range, which began behind what was sent
		sent += int64(a.Len())
		last := !a.More || sent == limit
		out := RangeAnswer{&pb.RangeResponse{Kvs: a.Kvs}, a.Raw}
		if last {
			out.Header = &pb.ResponseHeader{Revision: revision}
			out.More = a.More
			out.Count = count
		}
		if err := send(out); err != nil || last {
			return err
		}
		key, err := a.lastKey()
		if err != nil {
			return err
		}
		chunk.Key = append(key, 0)
		chunk.Limit = min(nextChunkKeys(chunk.Limit, out.Size(), chunkBytes), limit-sent)
	}
}

// nextChunkKeys adjusts the number of keys so that chunks come near the size
// wanted. Within half and twice of it the number stays.
func nextChunkKeys(keys int64, size, want int) int64 {
	switch {
	case size < want/2:
		return keys * 2
	case size > want*2:
		return max(keys/2, 1)
	}
	return keys
}

// ReadTxn answers a transaction for which IsReadOnly holds from the committed
// state, without the log.
func (s *Store) ReadTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	v := s.db.View()
	defer v.Close()
	p, err := decide(ctx, v, r)
	if err != nil {
		return nil, err
	}
	for _, op := range p.ops {
		if err := checkRange(v, op.GetRequestRange()); err != nil {
			return nil, err
		}
	}
	resp := &pb.TxnResponse{
		Header:    &pb.ResponseHeader{Revision: v.Revision()},
		Succeeded: p.succeeded,
		Responses: make([]*pb.ResponseOp, len(p.ops)),
	}
	for i, op := range p.ops {
		rr, err := executeRange(ctx, v, op.GetRequestRange(), v.Revision())
		if err != nil {
			return nil, err
		}
		resp.Responses[i] = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rr}}
	}
	return resp, nil
}

var _ reader = (*mvcc.View)(nil)
