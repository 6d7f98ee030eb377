package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/test/requests"
)

// filled is a member with some history, leases, members, an alarm, users and roles.
func filled(t *testing.T) *member {
	m := newMember(t)
	for id := range uint64(3) {
		cc, err := AddMember(1, &pb.Member{ID: id + 1, PeerURLs: []string{"http://" + string(rune('a'+id))}})
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(cc)
		if err != nil {
			t.Fatal(err)
		}
		m.apply(m.entry(raftpb.EntryConfChange, data))
	}
	data, err := proto.Marshal(RemoveMember(1, 3))
	if err != nil {
		t.Fatal(err)
	}
	m.apply(m.entry(raftpb.EntryConfChange, data))
	g := requests.New(7)
	for range 500 {
		m.do(g.Next())
		g.Observe(m.store.Revision())
	}
	m.do(&pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}},
		&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}},
		&pb.InternalRaftRequest{LeaseCheckpoint: &pb.LeaseCheckpointRequest{Checkpoints: []*pb.LeaseCheckpoint{{ID: 1, Remaining_TTL: 9}}}})
	allDone(t, m.do(guarded()[:6]...))
	return m
}

func (m *member) export() []byte {
	m.t.Helper()
	var b bytes.Buffer
	if err := m.store.DB().Export(context.Background(), &b); err != nil {
		m.t.Fatal(err)
	}
	return b.Bytes()
}

// from makes a member of a store that was made of an export.
func from(t *testing.T, open func(Options) (*Store, error)) *member {
	m := &member{t: t, fs: vfs.NewMem()}
	s, err := open(m.options())
	if err != nil {
		t.Fatal(err)
	}
	m.store = s
	m.index, _ = s.Applied()
	t.Cleanup(func() { m.store.Close() })
	return m
}

func TestAnImportedStoreIsTheOneThatWasExported(t *testing.T) {
	one := filled(t)
	data := one.export()
	other := from(t, func(o Options) (*Store, error) { return Import(t.Context(), o, bytes.NewReader(data)) })
	compareMembers(t, one, other)
	for _, m := range []*member{one, other} {
		m.do(put("after", "1"))
	}
	compareMembers(t, one, other)
}

func TestARestoredStoreBeginsANewCluster(t *testing.T) {
	old := filled(t)
	data := old.export()
	members := []*pb.Member{{ID: 22, PeerURLs: []string{"http://y"}}, {ID: 21, PeerURLs: []string{"http://x"}}}
	restore := func() *member {
		return from(t, func(o Options) (*Store, error) {
			return Restore(t.Context(), o, bytes.NewReader(data), RestoreOptions{Members: members})
		})
	}
	m := restore()
	s := m.store
	if index, term := s.Applied(); index != RestoredIndex || term != RestoredTerm {
		t.Errorf("applied %d in term %d", index, term)
	}
	if index, err := s.DB().DurableApplied(); err != nil || index != RestoredIndex {
		t.Errorf("durable up to %d, %v", index, err)
	}
	if c := s.ConfState(); !slices.Equal(c.Voters, []uint64{21, 22}) || len(c.Learners) != 0 {
		t.Errorf("configuration %v", c)
	}
	if ms := s.Members(); len(ms) != 2 || ms[0].ID != 21 || ms[1].ID != 22 || len(s.RemovedIDs()) != 0 {
		t.Errorf("members %v, removed %v", ms, s.RemovedIDs())
	}
	if !slices.Equal(s.Auth().Users(), []string{"alice", "root"}) || s.Auth().Revision() != old.store.Auth().Revision() {
		t.Errorf("users %v at revision %d", s.Auth().Users(), s.Auth().Revision())
	}
	if s.Revision() != old.store.Revision() || s.ClusterVersion() != "3.7.0" || len(s.Alarms(pb.AlarmType_NOSPACE)) != 1 {
		t.Errorf("revision %d, version %q, alarms %v", s.Revision(), s.ClusterVersion(), s.Alarms(0))
	}
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	a, err := s.Range(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := old.store.Range(t.Context(), all); err != nil || !proto.Equal(a, b) {
		t.Errorf("%v\ninstead of\n%v (%v)", a, b, err)
	}
	if !slices.Equal(s.Lessor().Leases(), old.store.Lessor().Leases()) {
		t.Errorf("leases %v instead of %v", s.Lessor().Leases(), old.store.Lessor().Leases())
	}
	compareMembers(t, m, restore())
	m.reopen()
	compareMembers(t, m, restore())
	res := m.do(&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}},
		put("after", "1"))
	if r, ok := res[1].Response.(*pb.PutResponse); !ok || r.Header.Revision != old.store.Revision()+1 {
		t.Errorf("after revision %d a put gives %v", old.store.Revision(), res[1])
	}
}

func TestARestoredStoreCanSkipRevisions(t *testing.T) {
	old := filled(t)
	data := old.export()
	restore := func(o Options, bump int64) (*Store, error) {
		return Restore(t.Context(), o, bytes.NewReader(data), RestoreOptions{
			Members: []*pb.Member{{ID: 21, PeerURLs: []string{"http://x"}}}, BumpRevision: bump,
		})
	}
	m := from(t, func(o Options) (*Store, error) { return restore(o, 1_000_000) })
	want := old.store.Revision() + 1_000_000
	for _, again := range []bool{false, true} {
		if again {
			m.reopen()
		}
		if rev := m.store.Revision(); rev != want {
			t.Errorf("revision %d instead of %d", rev, want)
		}
		if _, err := m.store.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: want - 1}); !errors.Is(err, mvcc.ErrCompacted) {
			t.Error(err)
		}
		r, err := m.store.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: want})
		if err != nil || r.Count == 0 {
			t.Errorf("%d keys, %v", r.GetCount(), err)
		}
	}
	m.do(&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}})
	if r := m.do(put("after", "1"))[0].Response.(*pb.PutResponse); r.Header.Revision != want+1 {
		t.Errorf("a put has revision %d", r.Header.Revision)
	}

	for _, bump := range []int64{-1, 1<<63 - 1} {
		if _, err := restore((&member{t: t, fs: vfs.NewMem()}).options(), bump); err == nil {
			t.Errorf("revisions were raised by %d", bump)
		}
	}
}
