package api

import (
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func opDelete(key, end string) *pb.RequestOp {
	r := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opTxn(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func txn(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }

func TestRequestsAreRefusedAsEtcdRefusesThem(t *testing.T) {
	k := []byte("k")
	for _, c := range []struct {
		name string
		got  error
		want error
	}{
		{"range of a key", checkRange(&pb.RangeRequest{Key: k}), nil},
		{"range without key", checkRange(&pb.RangeRequest{RangeEnd: k}), rpctypes.ErrGRPCEmptyKey},
		{"unknown sort order", checkRange(&pb.RangeRequest{Key: k, SortOrder: 3}), rpctypes.ErrGRPCInvalidSortOption},
		{"negative sort order", checkRange(&pb.RangeRequest{Key: k, SortOrder: -1}), rpctypes.ErrGRPCInvalidSortOption},
		{"unknown sort target", checkRange(&pb.RangeRequest{Key: k, SortTarget: 5}), rpctypes.ErrGRPCInvalidSortOption},
		{"last sort target", checkRange(&pb.RangeRequest{Key: k, SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND}), nil},
		{"no request", checkRange(nil), rpctypes.ErrGRPCEmptyKey},

		{"stream by key", checkRangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_ASCEND}), nil},
		{"stream with a target but no order", checkRangeStream(&pb.RangeRequest{Key: k, SortTarget: pb.RangeRequest_MOD}), nil},
		{"stream backwards", checkRangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_DESCEND}), errStreamSort},
		{"stream by version", checkRangeStream(&pb.RangeRequest{Key: k, SortTarget: pb.RangeRequest_VERSION, SortOrder: pb.RangeRequest_ASCEND}), errStreamSort},
		{"stream by revision", checkRangeStream(&pb.RangeRequest{Key: k, MinModRevision: 1}), errStreamFilters},
		{"stream without key", checkRangeStream(&pb.RangeRequest{MinModRevision: 1}), rpctypes.ErrGRPCEmptyKey},

		{"put", checkPut(&pb.PutRequest{Key: k, Value: k, Lease: 1}), nil},
		{"put without key", checkPut(&pb.PutRequest{Value: k}), rpctypes.ErrGRPCEmptyKey},
		{"put that ignores the value it brings", checkPut(&pb.PutRequest{Key: k, Value: k, IgnoreValue: true}), rpctypes.ErrGRPCValueProvided},
		{"put that ignores the lease it brings", checkPut(&pb.PutRequest{Key: k, Lease: 1, IgnoreLease: true}), rpctypes.ErrGRPCLeaseProvided},
		{"delete without key", checkDelete(&pb.DeleteRangeRequest{}), rpctypes.ErrGRPCEmptyKey},

		{"empty transaction", checkTxn(&pb.TxnRequest{}, 0), nil},
		{"too many compares", checkTxn(&pb.TxnRequest{Compare: []*pb.Compare{{Key: k}, {Key: k}}}, 1), rpctypes.ErrGRPCTooManyOps},
		{"too many operations", checkTxn(txn(opPut("a"), opPut("b")), 1), rpctypes.ErrGRPCTooManyOps},
		{"too many operations in the other branch", checkTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut("a"), opPut("b")}}, 1), rpctypes.ErrGRPCTooManyOps},
		{"as many operations as allowed", checkTxn(txn(opPut("a"), opPut("b")), 2), nil},
		{"compare without key", checkTxn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}, 9), rpctypes.ErrGRPCEmptyKey},
		{"operation without key", checkTxn(txn(opPut("")), 9), rpctypes.ErrGRPCEmptyKey},
		{"operation of no kind", checkTxn(txn(&pb.RequestOp{}), 9), rpctypes.ErrGRPCKeyNotFound},
		{"nested operation without key", checkTxn(txn(opTxn(txn(opDelete("", "")))), 9), rpctypes.ErrGRPCEmptyKey},
		{"nested range with a wrong sort", checkTxn(txn(opRange(&pb.RangeRequest{Key: k, SortOrder: 9})), 9), rpctypes.ErrGRPCInvalidSortOption},
		{"a nested transaction has what its parent left", checkTxn(txn(opTxn(txn(opPut("a"), opPut("b")))), 2), rpctypes.ErrGRPCTooManyOps},
		{"which may be just enough", checkTxn(txn(opTxn(txn(opPut("a"), opPut("b")))), 3), nil},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
}

func TestOneKeyIsWrittenOnlyOnceInATransaction(t *testing.T) {
	dup := rpctypes.ErrGRPCDuplicateKey
	for _, c := range []struct {
		name string
		ops  []*pb.RequestOp
		want error
	}{
		{"two keys", []*pb.RequestOp{opPut("a"), opPut("b")}, nil},
		{"one key twice", []*pb.RequestOp{opPut("a"), opPut("b"), opPut("a")}, dup},
		{"put and delete", []*pb.RequestOp{opPut("a"), opDelete("a", "")}, dup},
		{"delete and put", []*pb.RequestOp{opDelete("a", ""), opPut("a")}, dup},
		{"deletes may overlap", []*pb.RequestOp{opDelete("a", "c"), opDelete("b", "d"), opPut("d")}, nil},
		{"put within a deleted range", []*pb.RequestOp{opDelete("a", "c"), opPut("b")}, dup},
		{"put at the end of a deleted range", []*pb.RequestOp{opDelete("a", "c"), opPut("c")}, nil},
		{"put between two deleted ranges", []*pb.RequestOp{opDelete("a", "b"), opDelete("c", "d"), opPut("b")}, nil},
		{"put in the third of many ranges", []*pb.RequestOp{opDelete("e", "f"), opDelete("a", "b"), opDelete("c", "d"), opPut("cc")}, dup},
		{"a delete from a key on overlaps nothing", []*pb.RequestOp{opDelete("a", "\x00"), opPut("b")}, nil},
		{"nor does one that ends before it begins", []*pb.RequestOp{opDelete("b", "a"), opPut("b")}, nil},
		{"ranges read what they like", []*pb.RequestOp{opRange(&pb.RangeRequest{Key: []byte("a")}), opPut("a")}, nil},
		{"put in a nested transaction", []*pb.RequestOp{opTxn(txn(opPut("a"))), opPut("a")}, dup},
		{"put in two nested transactions", []*pb.RequestOp{opTxn(txn(opPut("a"))), opTxn(txn(opPut("a")))}, dup},
		{"put in both branches of one", []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("a")}, Failure: []*pb.RequestOp{opPut("a")}})}, nil},
		{"put and delete in the branches of one", []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut("a")}, Failure: []*pb.RequestOp{opDelete("a", "")}})}, nil},
		{"nested put, deleted outside", []*pb.RequestOp{opTxn(txn(opPut("a"))), opDelete("a", "")}, dup},
		{"nested delete, put outside", []*pb.RequestOp{opTxn(txn(opDelete("a", ""))), opPut("a")}, dup},
		{"nested delete, then nested put", []*pb.RequestOp{opTxn(txn(opDelete("a", ""))), opTxn(txn(opPut("a")))}, dup},
		{"nested put, then nested delete", []*pb.RequestOp{opTxn(txn(opPut("a"))), opTxn(txn(opDelete("a", "")))}, nil},
		{"twice in a nested transaction", []*pb.RequestOp{opTxn(txn(opPut("a"), opPut("a")))}, dup},
		{"two levels down", []*pb.RequestOp{opTxn(txn(opTxn(txn(opPut("a"))))), opPut("a")}, dup},
	} {
		if got := checkTxn(&pb.TxnRequest{Success: c.ops}, 100); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
		if got := checkTxn(&pb.TxnRequest{Failure: c.ops}, 100); got != c.want {
			t.Errorf("%s, in the failure branch: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCheckingAPlainTransactionAllocatesNothing(t *testing.T) {
	r := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("a")}},
		Success: []*pb.RequestOp{opPut("a")},
		Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: []byte("a")})},
	}
	if n := testing.AllocsPerRun(100, func() { checkTxn(r, 128) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// No request that comes off the wire makes a check panic, and what one check lets pass, its parts let pass too.
func FuzzTxnChecks(f *testing.F) {
	for _, r := range []*pb.TxnRequest{
		txn(opPut("a"), opDelete("b", "c"), opTxn(txn(opPut("d")))),
		txn(&pb.RequestOp{}, opTxn(&pb.TxnRequest{})),
		{Compare: []*pb.Compare{{}}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &pb.TxnRequest{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		if checkTxn(r, 128) != nil {
			return
		}
		readsOnly(r)
		for _, op := range append(r.Success, r.Failure...) {
			if err := checkTxn(txn(op), 128); err != nil {
				t.Errorf("a transaction passes with an operation that fails alone: %v", err)
			}
		}
	})
}
