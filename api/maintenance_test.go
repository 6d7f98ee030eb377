package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/cofferpb"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/seal"
)

func TestStatusTellsTheTruth(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.QuotaBytes = 12345678 })
	m.awaitClusterVersion(t)
	m.put(t, "k", strings.Repeat("v", 100<<10))
	st, err := m.maintenance().Status(soon(t), &pb.StatusRequest{})
	must(t, err)
	now := m.node.Status()
	if st.Version != version.Version || st.StorageVersion != "3.7.0" || st.DbSizeQuota != 12345678 {
		t.Errorf("version %q, storage version %q, quota %d", st.Version, st.StorageVersion, st.DbSizeQuota)
	}
	if st.Leader != m.id || st.RaftTerm != now.Term || st.RaftIndex == 0 || st.RaftAppliedIndex == 0 || st.IsLearner {
		t.Errorf("leader %x, term %d, index %d, applied %d, learner %v", st.Leader, st.RaftTerm, st.RaftIndex, st.RaftAppliedIndex, st.IsLearner)
	}
	if st.DbSize < 100<<10 || st.DbSizeInUse < 100<<10 || st.DbSizeInUse > st.DbSize {
		t.Errorf("size %d, in use %d, after 100 KiB were put", st.DbSize, st.DbSizeInUse)
	}
	if len(st.Errors) != 0 || st.DowngradeInfo == nil || st.DowngradeInfo.Enabled {
		t.Errorf("errors %v, downgrade %v", st.Errors, st.DowngradeInfo)
	}
	_, err = m.maintenance().Alarm(soon(t), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: m.id, Alarm: pb.AlarmType_NOSPACE})
	must(t, err)
	st, err = m.maintenance().Status(soon(t), &pb.StatusRequest{})
	must(t, err)
	if want := fmt.Sprintf("[memberID:%d alarm:NOSPACE]", m.id); fmt.Sprint(st.Errors) != want {
		t.Errorf("errors %v, want %v", st.Errors, want)
	}
}

func TestAlarmsAreRaisedListedAndDisarmed(t *testing.T) {
	m := startMember(t)
	alarm := func(action pb.AlarmRequest_AlarmAction, a pb.AlarmType) []*pb.AlarmMember {
		t.Helper()
		r, err := m.maintenance().Alarm(soon(t), &pb.AlarmRequest{Action: action, MemberID: m.id, Alarm: a})
		must(t, err)
		return r.Alarms
	}
	alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE)
	if got := alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE); len(got) != 1 || got[0].Alarm != pb.AlarmType_NOSPACE || got[0].MemberID != m.id {
		t.Errorf("listed %v", got)
	}
	if _, err := m.kv().Put(soon(t), &pb.PutRequest{Key: []byte("k")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("put under the alarm: %v", err)
	}
	if got := alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE); len(got) != 1 {
		t.Errorf("disarming returned %v", got)
	}
	m.put(t, "k", "v")
}

func TestDefragmentReturnsAndServesMeanwhile(t *testing.T) {
	m := startMember(t)
	m.put(t, "k", "v")
	r, err := m.maintenance().Defragment(soon(t), &pb.DefragmentRequest{})
	must(t, err)
	if r.Header != nil {
		t.Errorf("etcd's answer has no header, this one %v", r.Header)
	}
}

func TestADowngradeIsRecordedAndCalledOff(t *testing.T) {
	m := startMember(t)
	m.awaitClusterVersion(t)
	do := func(a pb.DowngradeRequest_DowngradeAction, v string) (*pb.DowngradeResponse, error) {
		return m.maintenance().Downgrade(soon(t), &pb.DowngradeRequest{Action: a, Version: v})
	}
	if r, err := do(pb.DowngradeRequest_CANCEL, ""); err != nil || r.Version != "3.7" {
		t.Errorf("calling off what never began: %v, %v", r, err)
	}
	if r, err := do(pb.DowngradeRequest_VALIDATE, "3.6"); err != nil || r.Version != "3.7" || r.Header.GetMemberId() != m.id {
		t.Errorf("validate: %v, %v", r, err)
	}
	if r, err := do(pb.DowngradeRequest_ENABLE, "3.6.0"); err != nil || r.Version != "3.7" {
		t.Errorf("enable: %v, %v", r, err)
	}
	if _, err := do(pb.DowngradeRequest_VALIDATE, "3.6"); status.Convert(err).Message() != "etcdserver: cluster has a downgrade job in progress" {
		t.Errorf("validate again: %v", err)
	}
	st, err := m.maintenance().Status(soon(t), &pb.StatusRequest{})
	must(t, err)
	if !st.DowngradeInfo.Enabled || st.DowngradeInfo.TargetVersion != "3.6.0" {
		t.Errorf("status: %v", st.DowngradeInfo)
	}
	_, err = do(pb.DowngradeRequest_CANCEL, "")
	must(t, err)
	if _, err := do(pb.DowngradeRequest_VALIDATE, "3.6"); err != nil {
		t.Errorf("validate after calling it off: %v", err)
	}
}

func TestASnapshotStandsAlone(t *testing.T) {
	m := startMember(t)
	for i := range 20 {
		m.put(t, fmt.Sprint("key-", i), strings.Repeat("value", 1000))
	}
	stream, err := m.maintenance().Snapshot(soon(t), &pb.SnapshotRequest{})
	must(t, err)
	var all []byte
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(t, err)
		if len(all) > 0 && len(r.Blob) == 0 {
			t.Error("an empty piece in the middle")
		}
		all = append(all, r.Blob...)
		if r.Version != "3.7.0" {
			t.Errorf("version %q", r.Version)
		}
	}
	if len(all)%512 != sha256.Size {
		t.Errorf("%d bytes, %d more than a multiple of 512", len(all), len(all)%512)
	}
	body, sum := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		t.Error("the checksum at the end is wrong")
	}
	if bytes.Contains(all, []byte("value")) || bytes.Contains(all, []byte("key-")) {
		t.Error("the snapshot can be read")
	}

	r, err := seal.OpenSnapshot(bytes.NewReader(all), m.kek)
	must(t, err)
	if meta := r.Meta(); meta.Revision != 21 || meta.Member.MemberID != m.id || meta.Member.ClusterID != m.clusterID {
		t.Errorf("it says of itself %+v", meta)
	}
	db, err := mvcc.Import(context.Background(), mvcc.Options{FS: vfs.NewMem(), Dir: "restored"}, r)
	must(t, err)
	defer db.Close()
	v := db.View()
	defer v.Close()
	if rev := v.Revision(); rev != 21 {
		t.Errorf("restored at revision %d", rev)
	}
}

func TestSavingASnapshotWithEtcdsClient(t *testing.T) {
	m := startMember(t)
	m.put(t, "k", "v")
	r, err := m.client.SnapshotWithVersion(soon(t))
	must(t, err)
	defer r.Snapshot.Close()
	all, err := io.ReadAll(r.Snapshot)
	must(t, err)
	if len(all)%512 != sha256.Size || r.Version != "3.7.0" {
		t.Errorf("%d bytes, version %q", len(all), r.Version)
	}
}

func TestHashKVNamesTheRevisionItCovers(t *testing.T) {
	m := startMember(t)
	for i := range 5 {
		m.put(t, "k", fmt.Sprint(i))
	}
	first, err := m.maintenance().HashKV(soon(t), &pb.HashKVRequest{Revision: 4})
	must(t, err)
	if first.HashRevision != 4 || first.CompactRevision != -1 || first.Header.Revision != 6 {
		t.Errorf("got %v", first)
	}
	_, err = m.kv().Compact(soon(t), &pb.CompactionRequest{Revision: 4, Physical: true})
	must(t, err)
	again, err := m.maintenance().HashKV(soon(t), &pb.HashKVRequest{Revision: 4})
	must(t, err)
	if again.Hash != first.Hash || again.CompactRevision != -1 {
		t.Errorf("after the compaction %v, before it %v", again, first)
	}
	now, err := m.maintenance().HashKV(soon(t), &pb.HashKVRequest{})
	must(t, err)
	if now.HashRevision != 6 || now.CompactRevision != 4 {
		t.Errorf("got %v", now)
	}
	if h, err := m.maintenance().Hash(soon(t), &pb.HashRequest{}); err != nil || h.Header.Revision != 6 {
		t.Errorf("hash: %v, %v", h, err)
	}
}

func TestKeysAreListedAndRotatedWithoutATraceInTheData(t *testing.T) {
	m := startMember(t)
	m.put(t, "k", "v")
	notes, err := m.disk.Create("data/db/NOTES", vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = notes.Write([]byte("not Coffer's"))
	must(t, errors.Join(err, notes.Close()))
	keys := cofferpb.NewKeysClient(m.conn)
	before, err := keys.List(soon(t), &cofferpb.ListRequest{})
	must(t, err)
	if len(before.Keys) != 1 || before.Keys[0].State != cofferpb.KeyState_KEY_STATE_ACTIVE || before.Keys[0].Bytes == 0 || before.Keys[0].CreatedUnix == 0 {
		t.Fatalf("at first: %v", before)
	}
	if len(before.Wraps) != 1 || before.Wraps[0].KekId != m.kek.ID() || before.MemberId != m.id {
		t.Errorf("at first: %v", before)
	}
	if len(before.ForeignFiles) != 1 || before.ForeignFiles[0] != "data/db/NOTES" || before.ForeignBytes != 12 {
		t.Errorf("foreign files: %v", before)
	}
	rotated, err := keys.Rotate(soon(t), &cofferpb.RotateRequest{})
	must(t, err)
	if rotated.KeyId == before.Keys[0].Id || rotated.Generation <= before.Generation {
		t.Errorf("rotated: %v", rotated)
	}
	ctx := soon(t)
	for {
		after, err := keys.List(ctx, &cofferpb.ListRequest{})
		must(t, err)
		old, active := after.Keys[0], after.Keys[1]
		if active.Id != rotated.KeyId || active.State != cofferpb.KeyState_KEY_STATE_ACTIVE {
			t.Fatalf("after the rotation: %v", after)
		}
		if old.State == cofferpb.KeyState_KEY_STATE_REMOVED {
			if old.Bytes != 0 || len(old.KekIds) != 1 || old.RemovedUnix == 0 || active.Bytes == 0 {
				t.Errorf("after the removal: %v", after)
			}
			break
		}
	}
	r, err := m.kv().Range(soon(t), &pb.RangeRequest{Key: []byte("k")})
	must(t, err)
	if r.Header.Revision != 2 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("the data changed: %v", r)
	}
}
