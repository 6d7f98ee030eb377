package store

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Ids stand on disks and in certificates of other members: they never change.
func TestIDsAreWhatTheyAlwaysWere(t *testing.T) {
	a := MemberID([]string{"http://10.0.0.1:2380", "http://a:2380"}, "token")
	b := MemberID([]string{"http://10.0.0.2:2380"}, "token")
	for _, c := range []struct {
		what      string
		got, want uint64
	}{
		{"member", a, 0x6537501d1139f7ac},
		{"member with its URLs in another order", MemberID([]string{"http://a:2380", "http://10.0.0.1:2380"}, "token"), 0x6537501d1139f7ac},
		{"added member", AddedMemberID([]string{"http://10.0.0.2:2380"}, "token", 1_700_000_000), 0x3893b41b6bcb98d2},
		{"cluster", ClusterID([]uint64{a, b}), 0x5386af7e9bba21cf},
		{"cluster with its members in another order", ClusterID([]uint64{b, a}), 0x5386af7e9bba21cf},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x instead of %#x", c.what, c.got, c.want)
		}
	}
}

func TestIDsDifferInWhateverTheyAreMadeOf(t *testing.T) {
	seen := make(map[uint64]string)
	for what, id := range map[string]uint64{
		"one URL":               MemberID([]string{"http://a"}, "t"),
		"another URL":           MemberID([]string{"http://b"}, "t"),
		"two URLs":              MemberID([]string{"http://a", "http://b"}, "t"),
		"two URLs in one":       MemberID([]string{"http://ahttp://b"}, "t"),
		"another token":         MemberID([]string{"http://a"}, "u"),
		"a URL in the token":    MemberID([]string{}, "thttp://a"),
		"added":                 AddedMemberID([]string{"http://a"}, "t", 1),
		"added later":           AddedMemberID([]string{"http://a"}, "t", 2),
		"a cluster":             ClusterID([]uint64{1}),
		"another cluster":       ClusterID([]uint64{2}),
		"a cluster of two":      ClusterID([]uint64{1, 2}),
		"a cluster of no one":   ClusterID(nil),
		"a member without URLs": MemberID(nil, ""),
	} {
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the same id", what, other)
		}
		seen[id] = what
	}
}

func TestWhatATransactionMayBeAnsweredFrom(t *testing.T) {
	get := func(serializable bool) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: []byte("a"), Serializable: serializable}}}
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}}
	nested := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{get(true)}}}}
	for _, c := range []struct {
		what                   string
		success, failure       []*pb.RequestOp
		readOnly, serializable bool
	}{
		{"nothing", nil, nil, true, true},
		{"serializable ranges", []*pb.RequestOp{get(true)}, []*pb.RequestOp{get(true), get(true)}, true, true},
		{"one range that is not", []*pb.RequestOp{get(true)}, []*pb.RequestOp{get(true), get(false)}, true, false},
		{"a put in the branch not taken", []*pb.RequestOp{get(true)}, []*pb.RequestOp{put}, false, false},
		{"a nested transaction", []*pb.RequestOp{nested}, nil, false, false},
	} {
		r := &pb.TxnRequest{Success: c.success, Failure: c.failure}
		if got := IsReadOnly(r); got != c.readOnly {
			t.Errorf("%s: read-only %v", c.what, got)
		}
		if got := IsSerializable(r); got != c.serializable {
			t.Errorf("%s: serializable %v", c.what, got)
		}
	}
}
