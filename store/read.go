package store

import (
	"bytes"
	"context"
	"math"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/mvcc"
)

// reader is a state from which ranges are answered: a committed one (a view),
// or the one that a request under way sees (a txn of a batch).
type reader interface {
	Revision() int64
	CompactRevision() int64
	Range(ctx context.Context, key, end []byte, o mvcc.RangeOptions) (mvcc.RangeResult, error)
	Get(key []byte) (mvcc.Meta, bool)
}

// executeRange answers r from rd; revision goes into the header. The messages
// of the response are shared and must not be changed.
func executeRange(ctx context.Context, rd reader, r *pb.RangeRequest, revision int64) (*pb.RangeResponse, error) {
	a, err := answerRange(ctx, rd, r, revision, false)
	return a.RangeResponse, err
}

// RangeAnswer is a RangeResponse. The key-values are in Raw, in their wire
// encoding, if they could be left in it; then Kvs is empty. They are shared
// and must not be changed.
type RangeAnswer struct {
	*pb.RangeResponse
	Raw [][]byte
}

// Len returns the number of key-values.
func (a RangeAnswer) Len() int { return max(len(a.Kvs), len(a.Raw)) }

// Size returns the size of the whole answer in wire encoding, in bytes.
func (a RangeAnswer) Size() int {
	size := proto.Size(a.RangeResponse)
	for _, raw := range a.Raw {
		size += kvsTagSize + protowire.SizeBytes(len(raw))
	}
	return size
}

const kvsTagSize = 1 // of RangeResponse.kvs, field 2

// lastKey returns a copy of the last key; there is one.
func (a RangeAnswer) lastKey() ([]byte, error) {
	if n := len(a.Kvs); n > 0 {
		return bytes.Clone(a.Kvs[n-1].Key), nil
	}
	kv := new(mvccpb.KeyValue)
	err := proto.Unmarshal(a.Raw[len(a.Raw)-1], kv)
	return kv.Key, err
}

// answerRange is executeRange; raw says that the key-values are better not
// decoded.
func answerRange(ctx context.Context, rd reader, r *pb.RangeRequest, revision int64, raw bool) (RangeAnswer, error) {
	ordered := r.SortOrder == pb.RangeRequest_NONE ||
		r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
	o := mvcc.RangeOptions{
		Rev:       r.Revision,
		CountOnly: r.CountOnly,
		KeysOnly:  r.KeysOnly && r.SortTarget != pb.RangeRequest_VALUE,
	}
	// One more than the limit shows whether there is more. What is sorted or
	// filtered afterwards must be read whole.
	if ordered && !hasRevisionFilters(r) {
		// A target without an order is sorted by (see sortKVs).
		o.RawOnly = raw && !r.KeysOnly && r.SortTarget == pb.RangeRequest_KEY
		if o.Limit = r.Limit; o.Limit > 0 && o.Limit < math.MaxInt64 {
			o.Limit++
		}
	}
	res, err := rd.Range(ctx, r.Key, r.RangeEnd, o)
	if err != nil {
		return RangeAnswer{}, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: revision}, Count: res.Count}
	if o.RawOnly {
		if resp.More = r.Limit > 0 && int64(len(res.Raw)) > r.Limit; resp.More {
			res.Raw = res.Raw[:r.Limit]
		}
		return RangeAnswer{resp, res.Raw}, nil
	}
	kvs := sortKVs(filterKVs(res.KVs, r), r)
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs = kvs[:r.Limit]
		resp.More = true
	}
	switch {
	case o.KeysOnly:
		// As in etcd, which answers this from its index, where leases are not.
		for _, kv := range kvs {
			kv.Lease = 0
		}
	case r.KeysOnly:
		kvs = withoutValues(kvs)
	}
	resp.Kvs = kvs
	return RangeAnswer{RangeResponse: resp}, nil
}

func hasRevisionFilters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 ||
		r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func filterKVs(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) []*mvccpb.KeyValue {
	if !hasRevisionFilters(r) {
		return kvs
	}
	return slices.DeleteFunc(slices.Clone(kvs), func(kv *mvccpb.KeyValue) bool {
		return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
	})
}

// sortKVs sorts as the request wants. A target without an order sorts upwards,
// though only what the limit has left (executeRange reads it as ordered): so
// it is in etcd. So is the order of equals, which is whatever sort.Sort makes
// of them: stable sorting or another algorithm would answer differently.
func sortKVs(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) []*mvccpb.KeyValue {
	order := r.SortOrder
	if r.SortTarget == pb.RangeRequest_KEY {
		if order != pb.RangeRequest_DESCEND {
			return kvs
		}
	} else if order == pb.RangeRequest_NONE {
		order = pb.RangeRequest_ASCEND
	}
	s := kvSorter{kvs: slices.Clone(kvs)}
	switch r.SortTarget {
	case pb.RangeRequest_KEY:
		s.less = func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Key, b.Key) < 0 }
	case pb.RangeRequest_VERSION:
		s.less = func(a, b *mvccpb.KeyValue) bool { return a.Version < b.Version }
	case pb.RangeRequest_CREATE:
		s.less = func(a, b *mvccpb.KeyValue) bool { return a.CreateRevision < b.CreateRevision }
	case pb.RangeRequest_MOD:
		s.less = func(a, b *mvccpb.KeyValue) bool { return a.ModRevision < b.ModRevision }
	case pb.RangeRequest_VALUE:
		s.less = func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Value, b.Value) < 0 }
	}
	if order == pb.RangeRequest_DESCEND {
		sort.Sort(sort.Reverse(s))
	} else {
		sort.Sort(s)
	}
	return s.kvs
}

// withoutValues copies the messages, which are shared, without their values.
func withoutValues(kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	bare := make([]*mvccpb.KeyValue, len(kvs))
	for i, kv := range kvs {
		bare[i] = &mvccpb.KeyValue{
			Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
			Version: kv.Version, Lease: kv.Lease,
		}
	}
	return bare
}

type kvSorter struct {
	kvs  []*mvccpb.KeyValue
	less func(a, b *mvccpb.KeyValue) bool
}

func (s kvSorter) Len() int           { return len(s.kvs) }
func (s kvSorter) Swap(i, j int)      { s.kvs[i], s.kvs[j] = s.kvs[j], s.kvs[i] }
func (s kvSorter) Less(i, j int) bool { return s.less(s.kvs[i], s.kvs[j]) }
