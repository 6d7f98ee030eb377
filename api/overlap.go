package api

import (
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// checkOverlaps refuses a list of operations in which one key is put twice, or put and deleted: all writes of a
// transaction share one revision, so their order could not be told afterwards.
//
// The rule is etcd's, with its corners, since a client that was accepted by etcd must be accepted here and the other way
// round. The branches of one nested transaction may write the same keys, as only one of them will run. A put of this
// level, or of a nested transaction, is held against the deletes of this level and of the nested transactions before it,
// but a nested delete is not held against puts that came before. A range that ends at or before its beginning overlaps
// nothing, and that includes "from key" deletes, whose end is the byte 0.
func checkOverlaps(ops []*pb.RequestOp) error {
	if writes(ops) < 2 {
		return nil
	}
	_, err := collectWrites(ops)
	return err
}

// writes returns 2 if more than one operation may write, without looking further than necessary. Most transactions
// compare, then write one key, and need no look at overlaps.
func writes(ops []*pb.RequestOp) int {
	n := 0
	for _, op := range ops {
		switch op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
			n++
		case *pb.RequestOp_RequestTxn:
			return 2
		}
		if n == 2 {
			break
		}
	}
	return n
}

// writeSet is what a list of operations may write. Strings in it are copies of the request's keys.
type writeSet struct {
	puts map[string]struct{}
	dels spans
}

// put records a put of key and reports whether nothing else writes it.
func (w *writeSet) put(key string) bool {
	if _, dup := w.puts[key]; dup || w.dels.contains(key) {
		return false
	}
	w.puts[key] = struct{}{}
	return true
}

func collectWrites(ops []*pb.RequestOp) (writeSet, error) {
	w := writeSet{puts: make(map[string]struct{})}

	// This level's deletes come first, because nested puts are held against them.
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.dels.add(spanOf(d.Key, d.RangeEnd))
		}
	}

	for _, op := range ops {
		txn := op.GetRequestTxn()
		if txn == nil {
			continue
		}
		success, err := collectWrites(txn.Success)
		if err != nil {
			return w, err
		}
		failure, err := collectWrites(txn.Failure)
		if err != nil {
			return w, err
		}
		for key := range success.puts {
			if !w.put(key) {
				return w, rpctypes.ErrGRPCDuplicateKey
			}
		}
		for key := range failure.puts {
			if _, other := success.puts[key]; other {
				continue // the other branch's put has been recorded, and only one of the two runs
			}
			if !w.put(key) {
				return w, rpctypes.ErrGRPCDuplicateKey
			}
		}
		w.dels.add(success.dels...)
		w.dels.add(failure.dels...)
	}

	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil && !w.put(string(p.Key)) {
			return w, rpctypes.ErrGRPCDuplicateKey
		}
	}
	return w, nil
}

// span is the keys from begin up to but not including end.
type span struct{ begin, end string }

func spanOf(key, end []byte) span {
	if len(end) == 0 {
		return span{begin: string(key), end: string(key) + "\x00"}
	}
	return span{begin: string(key), end: string(end)}
}

// spans is a set of keys: spans in order that neither overlap nor touch.
type spans []span

func (s *spans) add(more ...span) {
	for _, n := range more {
		if n.end <= n.begin {
			continue
		}
		// Spans i to j-1 overlap or touch n and are merged into it.
		i := sort.Search(len(*s), func(i int) bool { return (*s)[i].end >= n.begin })
		j := i
		for ; j < len(*s) && (*s)[j].begin <= n.end; j++ {
			n.begin = min(n.begin, (*s)[j].begin)
			n.end = max(n.end, (*s)[j].end)
		}
		*s = slices.Replace(*s, i, j, n)
	}
}

func (s spans) contains(key string) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].end > key })
	return i < len(s) && s[i].begin <= key
}
