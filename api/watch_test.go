package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchStream is a raw watch stream.
type watchStream struct {
	t testing.TB
	pb.Watch_WatchClient
}

func (m *member) watch(t testing.TB, ctx context.Context) watchStream {
	t.Helper()
	s, err := pb.NewWatchClient(m.conn).Watch(ctx)
	must(t, err)
	return watchStream{t, s}
}

func (s watchStream) create(r *pb.WatchCreateRequest) {
	s.t.Helper()
	must(s.t, s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}))
}

func (s watchStream) cancel(id int64) {
	s.t.Helper()
	must(s.t, s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}))
}

func (s watchStream) progress() {
	s.t.Helper()
	must(s.t, s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}))
}

// next returns the next response in one line: what it says about the watch, and its events.
func (s watchStream) next() string {
	s.t.Helper()
	r, err := s.Recv()
	must(s.t, err)
	return describe(r)
}

func describe(r *pb.WatchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d@%d", r.WatchId, r.Header.Revision)
	if r.Created {
		b.WriteString(" created")
	}
	if r.Canceled {
		b.WriteString(" canceled")
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&b, " (%s)", r.CancelReason)
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&b, " compacted %d", r.CompactRevision)
	}
	if r.Fragment {
		b.WriteString(" fragment")
	}
	for _, e := range r.Events {
		fmt.Fprintf(&b, " %v %s@%d", e.Type, e.Kv.Key, e.Kv.ModRevision)
		if e.PrevKv != nil {
			fmt.Fprintf(&b, " was %s", e.PrevKv.Value)
		}
	}
	return b.String()
}

func (s watchStream) expect(want ...string) {
	s.t.Helper()
	for _, w := range want {
		if got := s.next(); got != w {
			s.t.Fatalf("got  %s\nwant %s", got, w)
		}
	}
}

func TestWatchersOfOneStreamGetTheirOwnEvents(t *testing.T) {
	m := startMember(t)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("a")})
	s.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("d"), PrevKv: true})
	s.expect("0@1 created", "1@1 created")
	m.put(t, "a", "1")
	s.expect("0@2 PUT a@2")
	m.put(t, "c", "1")
	s.expect("1@3 PUT c@3")
	m.put(t, "c", "2")
	s.expect("1@4 PUT c@4 was 1")
	m.put(t, "x", "1")
	_, err := m.kv().DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")})
	must(t, err)
	got := map[string]bool{s.next(): true, s.next(): true}
	if !got["0@6 DELETE a@6"] || !got["1@6 DELETE c@6 was 2"] {
		t.Errorf("got %v", got)
	}
}

func TestAWatchFromThePastBeginsWithWhatHappened(t *testing.T) {
	m := startMember(t)
	for i := range 3 {
		m.put(t, "k", fmt.Sprint(i))
	}
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2})
	s.expect("0@4 created")
	var revs []int64
	for len(revs) < 3 {
		r, err := s.Recv()
		must(t, err)
		for _, e := range r.Events {
			revs = append(revs, e.Kv.ModRevision)
		}
	}
	if fmt.Sprint(revs) != "[2 3 4]" {
		t.Errorf("got %v", revs)
	}
}

func TestAWatchFromACompactedRevisionIsCanceledWithIt(t *testing.T) {
	m := startMember(t)
	for i := range 5 {
		m.put(t, "k", fmt.Sprint(i))
	}
	_, err := m.kv().Compact(soon(t), &pb.CompactionRequest{Revision: 4})
	must(t, err)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2})
	s.expect("0@6 created")
	r, err := s.Recv()
	must(t, err)
	if !r.Canceled || r.CompactRevision != 4 {
		t.Errorf("got %v", r)
	}
}

func TestWatchRequestsThatCannotBeServed(t *testing.T) {
	m := startMember(t)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: -1})
	s.expect("-1@1 created canceled (etcdserver: mvcc: required revision has been compacted)")
	s.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	s.expect("-1@1 created canceled (mvcc: watcher range is empty)")
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 5})
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 5})
	s.expect("5@1 created", "-1@1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)")
	// The cancellation of what is not there, and a request of no kind, are passed over.
	s.cancel(77)
	must(t, s.Send(&pb.WatchRequest{}))
	s.cancel(5)
	s.expect("5@1 canceled")
}

func TestAnEmptyKeyAndAnEndOfZeroMeanEverything(t *testing.T) {
	m := startMember(t)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})
	s.expect("0@1 created")
	m.put(t, "\xff\xff", "1")
	s.expect("0@2 PUT \xff\xff@2")
}

func TestFiltersLeaveOutKindsOfEvents(t *testing.T) {
	m := startMember(t)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	s.expect("0@1 created")
	m.put(t, "k", "1")
	_, err := m.kv().DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte("k")})
	must(t, err)
	s.expect("0@3 DELETE k@3")
}

func TestProgressIsAnsweredOnASyncedStreamAtOnce(t *testing.T) {
	m := startMember(t)
	m.put(t, "k", "1")
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("other")})
	s.expect("0@2 created")
	s.progress()
	s.expect("-1@2")
}

func TestIdleWatchersAreToldOfProgress(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.watch.ProgressInterval = 100 * time.Millisecond })
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true})
	s.expect("0@1 created", "0@1")
	m.put(t, "other", "1")
	for s.next() != "0@2" {
	}
}

func TestLargeResponsesComeInFragmentsIfTheWatcherTakesThem(t *testing.T) {
	const limit = 16 << 10
	m := startMember(t, func(o *memberOptions) { o.api.MaxRequestBytes = limit - messageOverhead })
	value := strings.Repeat("x", 4<<10)
	for i := range 10 {
		_, err := kvServer{API: m.api}.Put(soon(t), &pb.PutRequest{Key: []byte(fmt.Sprint(i)), Value: []byte(value)})
		must(t, err)
	}
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1, Fragment: true})
	s.expect("0@11 created")
	var events []*mvccpb.Event
	for fragments := 0; ; fragments++ {
		r, err := s.Recv()
		must(t, err)
		if size := proto.Size(r); size > limit {
			t.Errorf("a response of %d bytes", size)
		}
		events = append(events, r.Events...)
		if len(events) < 10 {
			continue
		}
		if r.Fragment || fragments == 0 {
			t.Errorf("the last of %d responses is a fragment: %v", fragments+1, r.Fragment)
		}
		break
	}
	for i, e := range events {
		if e.Kv.ModRevision != int64(i+2) {
			t.Errorf("event %d has revision %d", i, e.Kv.ModRevision)
		}
	}
}

func TestAClientThatSendsNoMoreStillReceives(t *testing.T) {
	m := startMember(t)
	ctx, cancel := context.WithCancel(soon(t))
	s := m.watch(t, ctx)
	s.create(&pb.WatchCreateRequest{Key: []byte("k")})
	must(t, s.CloseSend())
	s.expect("0@1 created")
	m.put(t, "k", "1")
	s.expect("0@2 PUT k@2")
	cancel()
	if _, err := s.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the cancellation: %v", err)
	}
}

func TestAStreamEndsWithTheLeader(t *testing.T) {
	m := startMember(t)
	ctx := metadata.AppendToOutgoingContext(soon(t), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	s := m.watch(t, ctx)
	s.create(&pb.WatchCreateRequest{Key: []byte("k")})
	s.expect("0@1 created")
	keepAlive, err := m.leases().LeaseKeepAlive(ctx)
	must(t, err)
	must(t, keepAlive.Send(&pb.LeaseKeepAliveRequest{ID: 1}))
	_, err = keepAlive.Recv()
	must(t, err)
	other := m.watch(t, soon(t)) // one that does not need a leader
	other.create(&pb.WatchCreateRequest{Key: []byte("k")})
	other.expect("0@1 created")

	m.api.streams.loseLeader()
	for name, recv := range map[string]func() error{
		"watch":      func() error { return errOf(s.Recv()) },
		"keep-alive": func() error { return errOf(keepAlive.Recv()) },
	} {
		if err := recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: no leader" {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.put(t, "k", "1")
	other.expect("0@2 PUT k@2")
}

func TestTheMemberEndsItsStreamsWhenItStops(t *testing.T) {
	m := startMember(t)
	s := m.watch(t, soon(t))
	s.create(&pb.WatchCreateRequest{Key: []byte("k")})
	s.expect("0@1 created")
	m.api.Close()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: server stopped" {
		t.Errorf("got %v", err)
	}
}

func TestEtcdsClientWatchesThroughAllOfThis(t *testing.T) {
	m := startMember(t)
	ctx, cancel := context.WithCancel(soon(t))
	events := m.client.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV())
	if r := <-events; !r.Created {
		t.Fatalf("first came %v", r)
	}
	for i := range 100 {
		m.put(t, "k", fmt.Sprint(i))
	}
	for want := int64(2); want < 102; {
		r := <-events
		must(t, r.Err())
		for _, e := range r.Events {
			if e.Kv.ModRevision != want {
				t.Fatalf("revision %d instead of %d", e.Kv.ModRevision, want)
			}
			want++
		}
	}
	cancel()
	for range events {
	}
}
