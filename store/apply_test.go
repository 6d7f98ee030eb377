package store

import (
	"errors"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/test/requests"
)

func put(key, value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

// Whatever refused requests stand between the others, they leave nothing behind.
func TestARequestThatFailsLeavesNothingBehind(t *testing.T) {
	putOp := func(r *pb.PutRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	}
	txn := func(ops ...*pb.RequestOp) *pb.InternalRaftRequest {
		return &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: ops}}
	}
	first := putOp(&pb.PutRequest{Key: []byte("left"), Value: []byte("behind"), Lease: 1})
	refused := []struct {
		cmd *pb.InternalRaftRequest
		err error
	}{
		{txn(first, putOp(&pb.PutRequest{Key: []byte("x"), Lease: 99})), lease.ErrNotFound},
		{txn(first, putOp(&pb.PutRequest{Key: []byte("x"), IgnoreValue: true})), ErrKeyNotFound},
		{txn(first, putOp(&pb.PutRequest{})), ErrMalformedRequest},
		{txn(first, &pb.RequestOp{}), ErrMalformedRequest},
		{txn(first, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40}}}), mvcc.ErrFutureRevision},
		{txn(first, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{
			RequestTxn: txn(first, putOp(&pb.PutRequest{Key: []byte("x"), Lease: 99})).Txn}}), lease.ErrNotFound},
		{&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 5}}, lease.ErrExists},
		{&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: 99}}, lease.ErrNotFound},
		{&pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 1 << 40}}, mvcc.ErrFutureRevision},
		{&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: 9, Alarm: pb.AlarmType_NOSPACE}}, ErrMalformedRequest},
	}
	good := []*pb.InternalRaftRequest{
		{LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 10}}, put("a", "1"), put("b", "1"),
	}
	one, other := newMember(t), newMember(t)
	one.apply(one.requests(good...))
	cmds := good
	for _, r := range refused {
		cmds = append(cmds, r.cmd, put("a", "2"))
		one.do(put("a", "2"))
	}
	results := other.apply(other.requests(cmds...))[0].Results
	for i, r := range refused {
		if got := results[len(good)+2*i]; !errors.Is(got.Err, r.err) || got.Response != nil {
			t.Errorf("%v gave %v, %v instead of %v", r.cmd, got.Response, got.Err, r.err)
		}
	}
	level(one, other)
	compareMembers(t, one, other)
}

func TestEntriesThatWereAppliedAreSkipped(t *testing.T) {
	m := newMember(t)
	e := []Entry{m.requests(put("a", "1")), m.requests(put("a", "2")), m.requests(put("a", "3"))}
	m.apply(e[:2]...)
	res := m.apply(e...)
	if len(res) != 1 || res[0].Index != 3 {
		t.Fatalf("results %+v", res)
	}
	if res := m.apply(e...); res != nil {
		t.Fatalf("results %+v", res)
	}
	if rev := m.store.Revision(); rev != 4 {
		t.Fatalf("revision %d after three puts", rev)
	}
}

// What this program cannot apply must stop it, or it would go on with another
// state than members that can.
func TestEntriesThatCannotBeAppliedStopTheMember(t *testing.T) {
	unknown, err := EncodeBatch(1, []*pb.InternalRaftRequest{put("a", "1"), {}})
	if err != nil {
		t.Fatal(err)
	}
	v2 := raftpb.EntryConfChangeV2
	for _, c := range []struct {
		name  string
		entry func(*member) Entry
		text  string
	}{
		{"noise", func(m *member) Entry { return m.entry(raftpb.EntryNormal, []byte("noise")) }, "shorter than its header"},
		{"an unknown request", func(m *member) Entry { return m.entry(raftpb.EntryNormal, unknown) }, "a newer version of coffer"},
		{"a configuration change of noise", func(m *member) Entry { return m.entry(raftpb.EntryConfChange, []byte{0xff}) }, "decoding the configuration change"},
		{"an unknown type of entry", func(m *member) Entry { return m.entry(v2, nil) }, "is not known"},
		{"a gap", func(m *member) Entry { m.index++; return m.requests(put("a", "1")) }, "the last applied one is 1"},
	} {
		m := newMember(t)
		m.do(put("a", "0"))
		_, err := m.store.Apply([]Entry{c.entry(m)}, &m.conf)
		if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "applying entry") {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, again := m.store.Apply([]Entry{m.requests(put("a", "1"))}, &m.conf); again != err {
			t.Errorf("after %s: %v", c.name, again)
		}
		if rev := m.store.Revision(); rev != 2 {
			t.Errorf("%s led to revision %d", c.name, rev)
		}
	}
}

func FuzzApply(f *testing.F) {
	g := requests.New(2)
	for range 20 {
		data, err := EncodeBatch(1, []*pb.InternalRaftRequest{g.Next(), g.Next()})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(false, data)
	}
	cc, err := AddMember(1, &pb.Member{ID: 1, PeerURLs: []string{"http://a"}})
	if err != nil {
		f.Fatal(err)
	}
	data, err := proto.Marshal(cc)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(true, data)
	f.Fuzz(func(t *testing.T, isConf bool, data []byte) {
		typ := raftpb.EntryNormal
		if isConf {
			typ = raftpb.EntryConfChange
		}
		one, other := newMember(t), newMember(t)
		for _, m := range []*member{one, other} {
			m.do(put("a", "1"), &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 10}}, put("b", "1"))
		}
		_, err := one.store.Apply([]Entry{one.entry(typ, data)}, &one.conf)
		_, err2 := other.store.Apply([]Entry{other.entry(typ, data)}, &other.conf)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v and %v", err, err2)
		}
		compareMembers(t, one, other)
	})
}
