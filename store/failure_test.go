package store

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A request that this member cannot read for is not a request that failed: on
// other members it succeeds, so this one must stop.
func TestAFailingDiskStopsTheMemberAndFailsNoRequest(t *testing.T) {
	key := []byte("a")
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	for name, cmd := range map[string]*pb.InternalRaftRequest{
		"range":              {Range: all},
		"put with prev_kv":   {Put: &pb.PutRequest{Key: key, PrevKv: true}},
		"put without value":  {Put: &pb.PutRequest{Key: key, IgnoreValue: true}},
		"delete of a range":  {DeleteRange: &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}},
		"compare of a value": {Txn: &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VALUE}}}},
		"compare of a range": {Txn: &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, RangeEnd: []byte{0}, Target: pb.Compare_MOD}}}},
		"range in a transaction": {Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestRange{RequestRange: all}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			m.do(put("a", strings.Repeat("v", 100)), put("b", "v"))
			if err := m.store.DB().Flush(); err != nil {
				t.Fatal(err)
			}
			m.store.Close()
			// What opening reads stays in the cache, if there is one.
			var fail errorfs.Toggle
			fail.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
					return errorfs.ErrInjected
				}
				return nil
			})
			o := m.options()
			o.FS, o.CacheBytes = errorfs.Wrap(m.fs, &fail), 1
			// The engine may meet the failure in the background. It then cannot
			// be closed any more.
			o.Fatal = func(error) { runtime.Goexit() }
			m.store = nil
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			fail.On()
			res, err := s.Apply([]Entry{m.requests(cmd)}, &m.conf)
			if err == nil {
				t.Fatalf("the member goes on, with %v, %v", res[0].Results[0].Response, res[0].Results[0].Err)
			}
			if !errors.Is(err, errorfs.ErrInjected) {
				t.Fatal(err)
			}
		})
	}
}

// What stands in the records beside the keys is checked when it is loaded.
func TestDamagedRecordsAreNotLoaded(t *testing.T) {
	for _, c := range []struct {
		space, key, value string
		text              string
	}{
		{spaceMember, "12345678", "\xff", "decoding a member"},
		{spaceMember, "12345678", "", "stands under another id"},
		{spaceRemoved, "1", "", "has 1 bytes"},
		{spaceAlarm, "1", "", "has 1 bytes"},
		{spaceCluster, nameConfState, "\xff", "decoding the configuration state"},
		{spaceCluster, nameDowngrade, "\xff", "decoding the downgrade"},
		{spaceCluster, "weather", "fine", `unknown record "weather"`},
		{spaceLease, "12345678", "", "malformed lease record"},
	} {
		m := newMember(t)
		b := m.store.DB().Begin()
		b.SetMeta(c.space, []byte(c.key), []byte(c.value))
		if _, err := b.Commit(1, 1); err != nil {
			t.Fatal(err)
		}
		m.store.Close()
		s, err := Open(m.options())
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "loading the state in db") {
			t.Errorf("%s %q: %v", c.space, c.key, err)
		}
		m.store = nil
	}
}
