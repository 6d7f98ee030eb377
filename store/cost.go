package store

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// Estimates of what a request will take besides its own bytes, as etcd's quota
// counts them.
const (
	costKey   = 256
	costLease = 64
)

// Cost returns an estimate, in bytes, of what the request adds to the store:
// 0 for requests that add nothing. A request of cost 0 is never refused for
// want of space; with a NOSPACE alarm every other one is. Of the two branches
// of a transaction the larger counts.
func Cost(r *pb.InternalRaftRequest) int64 {
	switch {
	case r.Put != nil:
		return putCost(r.Put)
	case r.Txn != nil:
		return txnCost(r.Txn)
	case r.LeaseGrant != nil:
		return costLease
	}
	return 0
}

func putCost(r *pb.PutRequest) int64 { return costKey + int64(len(r.Key)) + int64(len(r.Value)) }

func txnCost(r *pb.TxnRequest) int64 { return max(opsCost(r.Success), opsCost(r.Failure)) }

func opsCost(ops []*pb.RequestOp) int64 {
	var n int64
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			n += putCost(p)
		} else if t := op.GetRequestTxn(); t != nil {
			n += txnCost(t)
		}
	}
	return n
}

// IsReadOnly reports whether the transaction can be answered by ReadTxn: all
// its operations, in both branches, are ranges. One that nests transactions is
// not read-only, whatever they hold.
func IsReadOnly(r *pb.TxnRequest) bool {
	return allRanges(r, func(*pb.RangeRequest) bool { return true })
}

// IsSerializable reports whether a read-only transaction may be answered from
// this member's state without a read index: all its ranges are serializable.
func IsSerializable(r *pb.TxnRequest) bool {
	return allRanges(r, func(r *pb.RangeRequest) bool { return r.Serializable })
}

func allRanges(r *pb.TxnRequest, ok func(*pb.RangeRequest) bool) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if rr := op.GetRequestRange(); rr == nil || !ok(rr) {
				return false
			}
		}
	}
	return true
}
