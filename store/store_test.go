package store

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/mvcc"
)

// member is a store with a log that is applied to it.
type member struct {
	t     testing.TB
	fs    *vfs.MemFS
	store *Store
	conf  raftConfig
	index uint64
}

func newMember(t testing.TB) *member {
	m := &member{t: t, fs: vfs.NewMem()}
	m.open()
	t.Cleanup(func() {
		if m.store != nil {
			m.store.Close()
		}
	})
	return m
}

func (m *member) options() Options {
	return Options{FS: m.fs, Dir: "db", Fatal: func(err error) { m.t.Fatal(err) }}
}

func (m *member) open() {
	s, err := Open(m.options())
	if err != nil {
		m.t.Fatal(err)
	}
	m.store = s
	m.index, _ = s.Applied()
}

func (m *member) reopen() {
	if err := m.store.DB().Flush(); err != nil {
		m.t.Fatal(err)
	}
	if err := m.store.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.open()
}

// entry is the next entry of the log.
func (m *member) entry(t raftpb.EntryType, data []byte) Entry {
	m.index++
	return Entry{Raft: &raftpb.Entry{Type: &t, Index: proto.Uint64(m.index), Term: proto.Uint64(1), Data: data}}
}

func (m *member) requests(cmds ...*pb.InternalRaftRequest) Entry {
	data, err := EncodeBatch(m.index+1, cmds)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.entry(raftpb.EntryNormal, data)
}

func (m *member) apply(entries ...Entry) []EntryResult {
	m.t.Helper()
	res, err := m.store.Apply(entries, &m.conf)
	if err != nil {
		m.t.Fatal(err)
	}
	return res
}

// do applies requests as one entry each in one batch and returns their results.
func (m *member) do(cmds ...*pb.InternalRaftRequest) []Result {
	m.t.Helper()
	entries := make([]Entry, len(cmds))
	for i, c := range cmds {
		entries[i] = m.requests(c)
	}
	var out []Result
	for _, r := range m.apply(entries...) {
		out = append(out, r.Results...)
	}
	return out
}

// dump is everything there is: records, every revision's keys and events, the
// hash, leases with their keys.
func (m *member) dump() string {
	m.t.Helper()
	var b strings.Builder
	check := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	ctx, db := context.Background(), m.store.DB()
	for _, space := range []string{spaceMember, spaceRemoved, spaceAlarm, spaceCluster, spaceLease, spaceAuth, spaceUser, spaceRole} {
		check(db.RangeMeta(space, func(key, value []byte) error {
			fmt.Fprintf(&b, "%s %x = %x\n", space, key, value)
			return nil
		}))
	}
	v := db.View()
	defer v.Close()
	hash, err := db.HashKV(ctx, 0)
	check(err)
	fmt.Fprintf(&b, "%+v\n", hash)
	for rev := max(v.CompactRevision(), 1); rev <= v.Revision(); rev++ {
		r, err := v.Range(ctx, []byte{0}, []byte{0}, mvcc.RangeOptions{Rev: rev})
		check(err)
		fmt.Fprintf(&b, "revision %d: %d keys\n", rev, r.Count)
		for _, raw := range r.Raw {
			fmt.Fprintf(&b, "  %x\n", raw)
		}
		events, _, err := v.Events(ctx, rev, rev, mvcc.EventsOptions{})
		check(err)
		for _, evs := range events {
			for _, e := range evs.Events {
				fmt.Fprintf(&b, "  %v %x\n", e.Type, e.Raw)
			}
		}
	}
	m.formatState(&b)
	return b.String()
}

// raftConfig does what raft does with configuration changes of one member each.
type raftConfig struct{ state raftpb.ConfState }

func (c *raftConfig) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	v1, _ := cc.AsV1()
	id := v1.GetNodeId()
	if id == 0 {
		return proto.Clone(&c.state).(*raftpb.ConfState)
	}
	without := func(ids []uint64) []uint64 {
		var out []uint64
		for _, i := range ids {
			if i != id {
				out = append(out, i)
			}
		}
		return out
	}
	if v1.GetType() != raftpb.ConfChangeUpdateNode {
		c.state.Voters, c.state.Learners = without(c.state.Voters), without(c.state.Learners)
	}
	switch v1.GetType() {
	case raftpb.ConfChangeAddNode:
		c.state.Voters = append(c.state.Voters, id)
	case raftpb.ConfChangeAddLearnerNode:
		c.state.Learners = append(c.state.Learners, id)
	}
	return proto.Clone(&c.state).(*raftpb.ConfState)
}

func formatKV(kv *mvccpb.KeyValue) string {
	s := fmt.Sprintf("%s=%s create=%d mod=%d version=%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += fmt.Sprintf(" lease=%d", kv.Lease)
	}
	return s
}

// TestScripts runs the scripts in testdata. Their commands:
//
//	apply [each]     requests (script_test.go) as one entry, or as one entry
//	                 and one batch each
//	read             range requests and read-only transactions on the
//	                 committed state
//	stream [bytes=N] range requests in chunks of N bytes
//	conf             configuration changes, one entry each:
//	                 add|add-learner|update|promote|remove ID [URL...]
//	fill [n=N]       puts N keys k000, k001...
//	state            what the store knows besides keys
//	reopen           close and open again
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		m := newMember(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			m.t = t
			var out strings.Builder
			switch d.Cmd {
			case "apply":
				cmds := parseRequests(t, d.Input)
				var results []Result
				if d.HasArg("each") {
					for _, c := range cmds {
						results = append(results, m.do(c)...)
					}
				} else {
					results = m.apply(m.requests(cmds...))[0].Results
				}
				for _, r := range results {
					formatResult(&out, r.Response, r.Err)
				}
			case "read":
				for _, c := range parseRequests(t, d.Input) {
					m.read(&out, c)
				}
			case "stream":
				size := 1 << 20
				d.MaybeScanArgs(t, "bytes", &size)
				for _, c := range parseRequests(t, d.Input) {
					err := m.store.RangeStream(context.Background(), c.Range, size, func(a RangeAnswer) error {
						formatTo(&out, "", decoded(t, a))
						return nil
					})
					if err != nil {
						formatResult(&out, nil, err)
					}
				}
			case "conf":
				for _, l := range parseLines(t, d.Input) {
					m.changeConf(&out, l.words)
				}
			case "fill":
				var n int
				d.ScanArgs(t, "n", &n)
				for i := range n {
					m.do(put(fmt.Sprintf("k%03d", i), "v"))
				}
			case "state":
				m.formatState(&out)
			case "reopen":
				m.reopen()
			default:
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			return out.String()
		})
	})
}

func formatResult(out *strings.Builder, resp any, err error) {
	if err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
		return
	}
	formatTo(out, "", resp)
}

func (m *member) read(out *strings.Builder, c *pb.InternalRaftRequest) {
	ctx := context.Background()
	if c.Txn != nil {
		if !IsReadOnly(c.Txn) {
			m.t.Fatal("not a read-only transaction")
		}
		resp, err := m.store.ReadTxn(ctx, c.Txn)
		formatResult(out, resp, err)
		return
	}
	resp, err := m.store.Range(ctx, c.Range)
	formatResult(out, resp, err)
	raw, rawErr := m.store.RangeRaw(ctx, c.Range)
	if rawErr != err {
		m.t.Fatalf("in wire encoding the error is %v instead of %v", rawErr, err)
	}
	if err == nil && !proto.Equal(decoded(m.t, raw), resp) {
		m.t.Fatalf("in wire encoding the answer is another one: %v", decoded(m.t, raw))
	}
}

// decoded returns an answer as a message, and checks the size that it says it has.
func decoded(t testing.TB, a RangeAnswer) *pb.RangeResponse {
	size := a.Size()
	resp := proto.Clone(a.RangeResponse).(*pb.RangeResponse)
	for _, raw := range a.Raw {
		kv := new(mvccpb.KeyValue)
		if err := proto.Unmarshal(raw, kv); err != nil {
			t.Fatal(err)
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	if want := proto.Size(resp); size != want {
		t.Fatalf("an answer of %d bytes says that it has %d", want, size)
	}
	return resp
}

func (m *member) changeConf(out *strings.Builder, words []string) {
	t := m.t.(*testing.T)
	id := uint64(toInt(t, words[1]))
	member := &pb.Member{ID: id, PeerURLs: words[2:]}
	var cc *raftpb.ConfChange
	var err error
	switch words[0] {
	case "add":
		cc, err = AddMember(7, member)
	case "add-learner":
		member.IsLearner = true
		cc, err = AddMember(7, member)
	case "update":
		cc, err = UpdateMember(7, member)
	case "promote":
		cc = PromoteMember(7, id)
	case "remove":
		cc = RemoveMember(7, id)
	default:
		t.Fatalf("unknown change %q", words[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	_, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		t.Fatal(err)
	}
	res := m.apply(m.entry(raftpb.EntryConfChange, data))[0]
	if res.ID != 7 || res.ConfChange.NodeID != id {
		t.Fatalf("result of another change: %+v", res)
	}
	if res.ConfChange.Err != nil {
		fmt.Fprintf(out, "error: %v\n", res.ConfChange.Err)
		return
	}
	fmt.Fprintf(out, "%s %d:\n", words[0], id)
	formatMembers(out, res.ConfChange.Members)
}

func formatMembers(out *strings.Builder, members []*pb.Member) {
	for _, mb := range members {
		fmt.Fprintf(out, "  member %d name=%q peer=%v client=%v", mb.ID, mb.Name, mb.PeerURLs, mb.ClientURLs)
		if mb.IsLearner {
			out.WriteString(" learner")
		}
		out.WriteString("\n")
	}
}

func (m *member) formatState(out *strings.Builder) {
	s := m.store
	index, term := s.Applied()
	fmt.Fprintf(out, "applied %d term %d revision %d\n", index, term, s.Revision())
	formatMembers(out, s.Members())
	fmt.Fprintf(out, "removed %v\n", s.RemovedIDs())
	fmt.Fprintf(out, "voters %v learners %v\n", s.ConfState().Voters, s.ConfState().Learners)
	fmt.Fprintf(out, "alarms%s\n", formatAlarms(s.Alarms(pb.AlarmType_NONE)))
	enabled, version := s.Downgrade()
	fmt.Fprintf(out, "version %q downgrade %v %q\n", s.ClusterVersion(), enabled, version)
	for _, id := range s.Lessor().Leases() {
		r, _ := s.Lessor().Lookup(id)
		keys, _ := s.Lessor().Keys(id)
		fmt.Fprintf(out, "lease %d ttl=%d remaining=%d keys=%q\n", id, r.TTL, r.Remaining, keys)
	}
}
