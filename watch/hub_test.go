package watch

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cofferkv/coffer/mvcc"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// read returns all that a stream has to say now.
func read(t testing.TB, s *Stream) []*Response {
	t.Helper()
	var all []*Response
	for {
		r, err := s.poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return all
		}
		all = append(all, r)
	}
}

// decode returns an event as its client will see it.
func decode(e *Event) *mvccpb.Event {
	var r pb.WatchResponse
	if err := proto.Unmarshal(slices.Concat(e[:]...), &r); err != nil {
		panic(err)
	}
	return r.Events[0]
}

func watchRange(s *Stream, key, end string, prev bool) {
	s.Watch(&pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: prev})
}

func TestWatchersShareEvents(t *testing.T) {
	st := newStore(t)
	defer st.close()
	st.apply("put a 0")
	hub := New(st.db, Options{})
	defer hub.Close()
	var streams []*Stream
	for _, end := range []string{"z", "z", "y"} {
		s := hub.NewStream()
		defer s.Close()
		watchRange(s, "a", end, false)
		watchRange(s, "a", end, true)
		read(t, s)
		streams = append(streams, s)
	}
	hub.Publish(st.apply("put a 1\nput b 1"))
	var first []*Response
	for i, s := range streams {
		all := read(t, s)
		if len(all) != 2 || len(all[0].Events) != 2 {
			t.Fatalf("stream %d: %d responses", i, len(all))
		}
		if i == 0 {
			first = all
		}
		for j, r := range all {
			if e := decode(r.Events[0]); (e.PrevKv != nil) != (j == 1) {
				t.Fatalf("watcher %d: previous version %v", j, e.PrevKv)
			}
			if r.Events[0] != first[j].Events[0] || r.Events[1] != first[j].Events[1] {
				t.Errorf("stream %d, watcher %d has its own events", i, j)
			}
		}
		if i < 2 && &all[0].Events[0] != &first[0].Events[0] {
			t.Errorf("stream %d has its own slice, though the range is the same", i)
		}
	}
}

func TestWhatWaitsIsBounded(t *testing.T) {
	st := newStore(t)
	defer st.close()
	hub := New(st.db, Options{})
	defer hub.Close()
	hub.limits.queueBytes = 20_000
	hub.limits.recentBytes = 10_000
	hub.limits.chunkBytes = 5_000
	s := hub.NewStream()
	defer s.Close()
	for i := range 50 {
		watchRange(s, fmt.Sprint(i%7), "z", i%3 == 0)
	}
	if n := len(read(t, s)); n != 50 {
		t.Fatalf("%d watchers were created", n)
	}
	const batches = 500
	for i := range batches {
		hub.Publish(st.apply(fmt.Sprintf("put a %0200d\nput b %0200d", i, i)))
		if s.bytes > hub.limits.queueBytes || hub.recent.bytes > hub.limits.recentBytes {
			t.Fatalf("%d bytes wait, %d bytes are remembered", s.bytes, hub.recent.bytes)
		}
	}
	// They all get everything all the same, in bounded pieces.
	events := make(map[int64]int)
	for _, r := range read(t, s) {
		if bytes := (&Message{Raw: r.Events}).Size(); bytes > 20_000 {
			t.Errorf("a response has %d events, %d bytes", len(r.Events), bytes)
		}
		events[r.WatchID] += len(r.Events)
	}
	for id, n := range events {
		if n != 2*batches {
			t.Errorf("watcher %d: %d events", id, n)
		}
	}
	if len(events) != 50 || s.bytes != 0 {
		t.Fatalf("%d watchers, %d bytes left", len(events), s.bytes)
	}
}

// Previous versions may be much larger than the events that bear them: deletes
// are small.
func TestPreviousVersionsAreBounded(t *testing.T) {
	const keys, size = 200, 100_000
	st := newStore(t)
	defer st.close()
	value := strings.Repeat("v", size)
	for i := range keys {
		st.apply(fmt.Sprintf("put k%03d %s", i, value))
	}
	hub := New(st.db, Options{})
	defer hub.Close()
	s := hub.NewStream()
	defer s.Close()
	watchRange(s, "k", "l", true)
	watchRange(s, "k0", "l", true)
	read(t, s)
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	for i := range keys {
		hub.Publish(st.apply(fmt.Sprintf("delete k%03d", i)))
	}
	next := map[int64]int{}
	for {
		r, err := s.poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			break
		}
		if n := (&Message{Raw: r.Events}).Size(); n > hub.limits.queueBytes+2*size {
			t.Errorf("a response has %d events, %d bytes", len(r.Events), n)
		}
		for _, e := range r.Events {
			want := fmt.Sprintf("k%03d", next[r.WatchID])
			if d := decode(e); string(d.Kv.Key) != want || d.Type != mvccpb.Event_DELETE || string(d.PrevKv.GetValue()) != value {
				t.Fatalf("watcher %d: event of %s, previous version of %d bytes; want %s", r.WatchID, d.Kv.Key, len(d.PrevKv.GetValue()), want)
			}
			next[r.WatchID]++
		}
	}
	if next[0] != keys || next[1] != keys || s.bytes != 0 {
		t.Fatalf("events of the watchers: %v; %d bytes left", next, s.bytes)
	}
	if grown := heap() - before; grown > keys*size/4 {
		t.Errorf("%d bytes are remembered", grown)
	}
	runtime.KeepAlive(hub)
}

func TestRequestsWaitWhileTheClientDoesNotReadTheAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStore(t)
		defer st.close()
		hub := New(st.db, Options{})
		defer hub.Close()
		s := hub.NewStream()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		taken := 0
		var err error
		go func() {
			for range 3 * maxControl {
				if err = s.Room(ctx); err != nil {
					return
				}
				s.Refuse("")
				taken++
			}
		}()
		for want := maxControl; want <= maxControl+2; want++ {
			synctest.Wait()
			if taken != want {
				t.Fatalf("%d requests were taken in, want %d", taken, want)
			}
			if r, err := s.Next(ctx); r == nil || err != nil {
				t.Fatal(r, err)
			}
		}
		cancel()
		if synctest.Wait(); err != context.Canceled {
			t.Errorf("waiting ended with %v", err)
		}
		s.Refuse("")
		s.Close()
		if err := s.Room(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsPublishedWhileAWatcherCatchesUpComesAfterwards(t *testing.T) {
	st := newStore(t)
	defer st.close()
	hub := New(st.db, Options{})
	defer hub.Close()
	hub.Publish(st.apply("put a 2"))
	s := hub.NewStream()
	defer s.Close()
	s.Watch(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	if r, _, _, _ := s.take(); r == nil || !r.Created {
		t.Fatalf("got %v", r)
	}
	_, w, _, _ := s.take()
	group, batches, ok := s.remembered(w)
	if !ok || w.state != live {
		t.Fatal("the watcher is not live, though all is remembered")
	}
	hub.Publish(st.apply("put a 3"))
	s.give(group, batches)
	r := read(t, s)
	if len(r) != 1 || len(r[0].Events) != 2 || decode(r[0].Events[0]).Kv.ModRevision != 2 || r[0].Revision != 3 {
		t.Fatalf("got %v", r)
	}
}

func TestPublishRefusesRevisionsOutOfOrder(t *testing.T) {
	st := newStore(t)
	defer st.close()
	hub := New(st.db, Options{})
	rev, events := st.apply("put a 1\nput a 2")
	for name, f := range map[string]func(){
		"a gap":      func() { hub.Publish(rev, events[1:]) },
		"a repeat":   func() { hub.Publish(rev, append(events[:1:1], events...)) },
		"not enough": func() { hub.Publish(rev, events[:1]) },
	} {
		func() {
			defer hub.mu.Unlock()
			defer func() {
				if recover() == nil {
					t.Errorf("%s was published", name)
				}
			}()
			f()
		}()
	}
}

func TestNextEndsWithItsContextAndTheStream(t *testing.T) {
	st := newStore(t)
	defer st.close()
	hub := New(st.db, Options{})
	synctest.Test(t, func(t *testing.T) {
		s := hub.NewStream()
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error)
		next := func() { _, err := s.Next(ctx); errs <- err }
		go next()
		synctest.Wait()
		cancel()
		if err := <-errs; err != context.Canceled {
			t.Errorf("got %v", err)
		}
		ctx = context.Background()
		go next()
		synctest.Wait()
		s.Close()
		if err := <-errs; err != ErrClosed {
			t.Errorf("got %v", err)
		}
		s.Close()
		watchRange(s, "a", "", false)
		s.Cancel(0)
		s.RequestProgress()

		s = hub.NewStream()
		go next()
		synctest.Wait()
		hub.Close()
		if err := <-errs; err != ErrClosed {
			t.Errorf("got %v", err)
		}
		s.Close()
		s = hub.NewStream()
		if _, err := s.Next(ctx); err != ErrClosed {
			t.Errorf("got %v", err)
		}
		s.Close()
	})
}

func TestProgressIsNotifiedByTheInterval(t *testing.T) {
	st := newStore(t)
	defer st.close()
	const interval = 10 * time.Second
	hub := New(st.db, Options{ProgressInterval: interval})
	defer hub.Close()
	synctest.Test(t, func(t *testing.T) {
		s := hub.NewStream()
		defer s.Close()
		s.Watch(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true})
		next := func() *Response {
			r, err := s.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		next()
		start := time.Now()
		for range 3 {
			r := next()
			took := time.Since(start)
			start = time.Now()
			if len(r.Events) > 0 || r.WatchID != 0 || took < interval || took > interval+interval/10 {
				t.Fatalf("%+v after %v", r, took)
			}
		}
	})
}

// TestLargeGroupsRest tells when events reach the watchers of a group: at once,
// unless the group has just been told something.
func TestLargeGroupsRest(t *testing.T) {
	for _, c := range []struct {
		watchers int
		rest     time.Duration
	}{{1, 0}, {9, 0}, {20, time.Millisecond}, {1000, maxRest}} {
		synctest.Test(t, func(t *testing.T) {
			st := newStore(t)
			defer st.close()
			hub := New(st.db, Options{})
			defer hub.Close()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			start := time.Now()
			told := make([]string, c.watchers)
			for i := range told {
				s := hub.NewStream()
				watchRange(s, "a", "z", false)
				read(t, s)
				go func() {
					defer s.Close()
					for {
						r, err := s.Next(ctx)
						if err != nil {
							return
						}
						told[i] += fmt.Sprintf("%d at %v\n", len(r.Events), time.Since(start))
					}
				}()
			}
			at := func(d time.Duration) {
				time.Sleep(d - time.Since(start))
				hub.Publish(st.apply("put a 1"))
				synctest.Wait()
			}
			const us = time.Microsecond
			at(0)
			at(100 * us)
			at(200 * us)
			at(c.rest + 300*us)
			at(time.Second)
			time.Sleep(time.Second)
			want := "1 at 0s\n1 at 100µs\n1 at 200µs\n1 at 300µs\n1 at 1s\n"
			if c.rest > 0 {
				want = fmt.Sprintf("1 at 0s\n2 at %v\n1 at %v\n1 at 1s\n", c.rest, 2*c.rest)
			}
			for i, got := range told {
				if got != want {
					t.Fatalf("watcher %d of %d was told\n%swant\n%s", i, c.watchers, got, want)
				}
			}
			cancel()
			synctest.Wait()
		})
	}
}

// TestFragmentsAreSplitAsEtcdSplitsThem compares with the rule itself: a
// message takes events until the next one would bring it to the limit.
func TestFragmentsAreSplitAsEtcdSplitsThem(t *testing.T) {
	header := &pb.ResponseHeader{ClusterId: 1 << 63, MemberId: 1 << 62, Revision: 1000, RaftTerm: 7}
	for range 200 {
		r := &Response{WatchID: rand.Int64N(1000), Revision: 1000, Fragment: true}
		for range rand.IntN(30) {
			r.Events = append(r.Events, randomEvent(t))
		}
		limit := 10 + rand.IntN(1000)
		var got []*Event
		var messages []*pb.WatchResponse
		for m := range r.Messages(header, limit) {
			got = append(got, m.Raw...)
			for _, e := range m.Raw {
				m.Events = append(m.Events, decode(e))
			}
			messages = append(messages, m.WatchResponse)
		}
		if !slices.Equal(got, r.Events) {
			t.Fatalf("%d of %d events", len(got), len(r.Events))
		}
		for i, m := range messages {
			last := i == len(messages)-1
			if m.Fragment == last || m.WatchId != r.WatchID || m.Header != header {
				t.Fatalf("message %d of %d: %v", i, len(messages), m)
			}
			if n := proto.Size(m); n >= limit && len(m.Events) > 1 && len(messages) > 1 {
				t.Fatalf("message %d has %d bytes, limit %d", i, n, limit)
			}
			if last {
				continue
			}
			more := proto.Clone(m).(*pb.WatchResponse)
			more.Events = append(more.Events, messages[i+1].Events[0])
			if n := proto.Size(more); n < limit {
				t.Fatalf("message %d has room for another event: %d bytes, limit %d", i, n, limit)
			}
		}
	}
}

func randomEvent(t testing.TB) *Event {
	kv := &mvccpb.KeyValue{Key: make([]byte, rand.IntN(300))}
	raw, err := proto.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	c := &mvcc.Event{Type: mvccpb.Event_EventType(rand.IntN(2)), KV: kv, Raw: raw}
	want := &pb.WatchResponse{Events: []*mvccpb.Event{{Type: c.Type, Kv: kv}}}
	if rand.IntN(2) == 0 {
		want.Events[0].PrevKv = &mvccpb.KeyValue{Value: make([]byte, rand.IntN(300))}
	}
	e, err := encode(c, want.Events[0].PrevKv)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(slices.Concat(e[:]...), b) || e.Size() != len(b) {
		t.Fatalf("%v is encoded as %x, %d bytes; protobuf has %x", want, e, e.Size(), b)
	}
	return e
}

// TestIndexFindsWhatAPlainSearchFinds adds and removes random watchers.
func TestIndexFindsWhatAPlainSearchFinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := newIndex()
	key := func() []byte {
		k := make([]byte, 1+rng.IntN(2))
		for i := range k {
			k[i] = byte('a' + rng.IntN(5))
		}
		return k
	}
	var all []*watcher
	for range 5000 {
		if len(all) > 0 && rng.IntN(2) == 0 {
			i := rng.IntN(len(all))
			x.remove(all[i])
			all = slices.Delete(all, i, i+1)
		} else {
			var end []byte
			switch rng.IntN(4) {
			case 0:
				end = []byte{0}
			case 1, 2:
				end = key()
			}
			s := makeSpan(key(), end)
			if s.empty() {
				continue
			}
			w := &watcher{}
			x.add(w, s, filter(rng.IntN(4)))
			all = append(all, w)
		}
		e := &mvcc.Event{Type: mvccpb.Event_EventType(rng.IntN(2)), KV: &mvccpb.KeyValue{Key: key()}}
		found := make(map[*watcher]int)
		for _, g := range x.find(e, nil) {
			for _, w := range g.watchers {
				found[w]++
			}
		}
		for _, w := range all {
			want := 0
			if w.group.wants(e) {
				want = 1
			}
			if found[w] != want {
				t.Fatalf("%+v found %d times for %s", w.group.span, found[w], e.KV.Key)
			}
			delete(found, w)
		}
		if len(found) > 0 {
			t.Fatal("found a watcher that had been removed")
		}
	}
	for _, w := range all {
		x.remove(w)
	}
	if x.ranges != nil || len(x.points) > 0 {
		t.Fatal("the index is not empty without watchers")
	}
}
