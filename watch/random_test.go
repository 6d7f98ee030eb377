package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// change is one event as the test expects it.
type change struct {
	key, value string
	deleted    bool
	prev       string
	hasPrev    bool
}

// history is what a writer did, for the watchers to compare with. It knows a
// revision before it is published.
type history struct {
	mu        sync.Mutex
	grown     *sync.Cond
	revisions [][]change // by revision
	compact   int64
	done      bool
	current   map[string]string
}

func newHistory() *history {
	h := &history{revisions: make([][]change, 2), current: make(map[string]string)}
	h.grown = sync.NewCond(&h.mu)
	return h
}

func (h *history) last() int64 { return int64(len(h.revisions)) - 1 }

// write returns random requests, in the form that store.apply takes, after
// adding what they do to the history.
func (h *history) write(rng *rand.Rand) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var requests strings.Builder
	for range 1 + rng.IntN(5) {
		var changes []change
		touched := make(map[string]bool)
		for i := range 1 + rng.IntN(3) {
			if i > 0 {
				requests.WriteString(";")
			}
			k := rng.IntN(20)
			if i > 0 || rng.IntN(4) > 0 {
				key := randomKey(k)
				for touched[key] {
					key += "x" // a transaction changes a key once
				}
				touched[key] = true
				prev, had := h.current[key]
				value := fmt.Sprintf("%d-%s", rng.IntN(1000), strings.Repeat("v", rng.IntN(30)))
				changes = append(changes, change{key: key, value: value, prev: prev, hasPrev: had})
				h.current[key] = value
				fmt.Fprintf(&requests, "put %s %s", key, value)
				continue
			}
			key, end := randomKey(k), randomKey(k+rng.IntN(3))+"~"
			fmt.Fprintf(&requests, "delete %s %s", key, end)
			var gone []string
			for c := range h.current {
				if c >= key && c < end {
					gone = append(gone, c)
				}
			}
			slices.Sort(gone)
			for _, c := range gone {
				changes = append(changes, change{key: c, deleted: true, prev: h.current[c], hasPrev: true})
				delete(h.current, c)
			}
			break
		}
		requests.WriteString("\n")
		if len(changes) > 0 {
			h.revisions = append(h.revisions, changes)
		}
	}
	if rng.IntN(20) == 0 {
		if rev := h.last() - rng.Int64N(200); rev > h.compact && rev > 1 {
			h.compact = rev
			fmt.Fprintf(&requests, "compact %d\n", rev)
		}
	}
	return requests.String()
}

func randomKey(i int) string { return fmt.Sprintf("k%02d", i) }

// TestWatchersAreToldTheHistory lets many clients, fast and slow, watch random
// ranges from random revisions while a writer writes, compacts and is replaced
// by leader's snapshots. Every watcher must be told exactly what the history
// says, in its order. The long form is COFFER_LONG=1.
func TestWatchersAreToldTheHistory(t *testing.T) {
	batches := 400
	if os.Getenv("COFFER_LONG") != "" {
		batches = 20_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	st := newStore(t)
	hub := New(st.db, Options{ProgressInterval: 20 * time.Millisecond})
	hub.limits = limits{
		recentBytes:    2000 + rng.IntN(30_000),
		queueBytes:     2000 + rng.IntN(10_000),
		chunkBytes:     1000 + rng.IntN(3000),
		chunkRevisions: 5 + rng.Int64N(50),
	}
	h := newHistory()

	var clients sync.WaitGroup
	for i := range uint64(8) {
		c := &client{
			t: t, h: h, stream: hub.NewStream(), slow: i%2 == 1,
			rng: rand.New(rand.NewPCG(seed, 2*i+1)), watching: make(map[int64]*expectation),
		}
		clients.Go(func() { c.demand(rand.New(rand.NewPCG(seed, 2*i+2))) })
		clients.Go(func() {
			defer c.stream.Close()
			c.read(context.Background())
		})
	}
	for range batches {
		requests := h.write(rng)
		if rng.IntN(50) == 0 {
			leader := st.clone()
			leader.apply(requests)
			hub.Restore(leader.db)
			st.close()
			st = leader
		} else {
			hub.Publish(st.apply(requests))
		}
		if rev := hub.Revision(); rev != h.last() {
			t.Fatalf("the store is at revision %d, the history at %d", rev, h.last())
		}
		h.grown.Broadcast()
	}
	h.mu.Lock()
	h.done = true
	h.mu.Unlock()
	h.grown.Broadcast()
	clients.Wait()
	if hub.index.ranges != nil || len(hub.index.points) > 0 || len(hub.streams) > 0 {
		t.Error("something is left of closed streams")
	}
	hub.Close()
	st.close()
	for _, g := range []prometheus.Gauge{streamsTotal, watchersTotal, slowWatchersTotal, pendingEventsTotal} {
		var m dto.Metric
		if err := g.Write(&m); err != nil || m.GetGauge().GetValue() != 0 {
			t.Errorf("%v is not 0 without streams: %v, %v", g.Desc(), m.GetGauge().GetValue(), err)
		}
	}
}

// client is one client with one stream. One goroutine demands, one reads.
type client struct {
	t      *testing.T
	h      *history
	stream *Stream
	slow   bool
	rng    *rand.Rand // of read

	mu      sync.Mutex
	asked   []*expectation // not yet created
	ids     []int64        // created and not yet canceled by demand
	allDone bool           // demand makes its last request

	watching map[int64]*expectation // of read
}

// expectation is a watcher, and where in the history it is.
type expectation struct {
	request *pb.WatchCreateRequest
	span    span
	filter  filter
	rev     int64 // everything before has been told
	index   int   // of this revision, so many changes have been looked at
}

// wait returns the last revision once the history has grown by n revisions
// beyond the given one, or is done.
func (h *history) wait(beyond int64, n int64) (last int64, done bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.done && h.last() < beyond+n {
		h.grown.Wait()
	}
	return h.last(), h.done
}

// demand creates and cancels watchers and asks for progress.
func (c *client) demand(rng *rand.Rand) {
	var last int64
	for done := false; !done; {
		last, done = c.h.wait(last, rng.Int64N(40))
		c.mu.Lock()
		var cancel int64 = -1
		if n := len(c.ids); n > 0 && (rng.IntN(4) == 0 || n > 6) {
			i := rng.IntN(n)
			cancel = c.ids[i]
			c.ids = slices.Delete(c.ids, i, i+1)
		}
		c.mu.Unlock()
		if cancel >= 0 {
			c.stream.Cancel(cancel)
		}
		if rng.IntN(3) == 0 {
			c.stream.RequestProgress()
		}
		r := &pb.WatchCreateRequest{
			Key:            []byte(randomKey(rng.IntN(20))),
			PrevKv:         rng.IntN(2) == 0,
			ProgressNotify: rng.IntN(2) == 0,
		}
		switch rng.IntN(4) {
		case 0: // one key
		case 1:
			r.RangeEnd = []byte{0}
		default:
			r.RangeEnd = []byte(string(r.Key[:2]) + "~")
			if rng.IntN(2) == 0 {
				r.RangeEnd = append(slices.Clone(r.Key), '~')
			}
		}
		switch rng.IntN(4) {
		case 0: // from now on
		case 1:
			r.StartRevision = last + 1 + rng.Int64N(10)
		default:
			r.StartRevision = 1 + max(0, last-rng.Int64N(400))
		}
		if done {
			r.StartRevision = 0 // a stream without watchers tells no progress
		}
		switch rng.IntN(6) {
		case 0:
			r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
		case 1:
			r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
		}
		c.mu.Lock()
		c.allDone = done // so that read knows when it sees this one created
		c.asked = append(c.asked, &expectation{request: r, span: makeSpan(r.Key, r.RangeEnd), filter: makeFilter(r.Filters)})
		c.mu.Unlock()
		c.stream.Watch(r)
	}
}

// read reads until the last progress request is answered.
func (c *client) read(ctx context.Context) {
	for {
		r, err := c.stream.Next(ctx)
		if err != nil {
			c.t.Errorf("next: %v", err)
			return
		}
		if err := c.check(r); err != nil {
			c.t.Errorf("response %+v: %v", r, err)
			return
		}
		c.h.mu.Lock()
		last, done := c.h.last(), c.h.done
		c.h.mu.Unlock()
		c.mu.Lock()
		demanded := c.allDone
		c.mu.Unlock()
		if done && demanded {
			if r.WatchID == NoWatcher && !r.Created && r.Revision == last {
				return
			}
			// Those that begin after the end would keep progress from being
			// told.
			for id, e := range c.watching {
				if e.request.StartRevision > last {
					c.stream.Cancel(id)
				}
			}
			c.stream.RequestProgress()
		}
		if c.slow && c.rng.IntN(5) == 0 {
			c.h.wait(last, c.rng.Int64N(100))
		}
	}
}

// check compares a response with the history.
func (c *client) check(r *Response) error {
	if r.Created {
		c.mu.Lock()
		defer c.mu.Unlock()
		e := c.asked[0]
		c.asked = c.asked[1:]
		if r.Canceled {
			return errors.New("refused")
		}
		if c.watching[r.WatchID] != nil {
			return errors.New("id is taken")
		}
		c.ids = append(c.ids, r.WatchID)
		c.watching[r.WatchID] = e
		if e.rev = e.request.StartRevision; e.rev == 0 {
			e.rev = r.Revision + 1
		}
		return nil
	}
	if r.WatchID == NoWatcher {
		for id, e := range c.watching {
			if err := c.checkProgress(e, r.Revision); err != nil {
				return fmt.Errorf("watcher %d: %w", id, err)
			}
		}
		return nil
	}
	e := c.watching[r.WatchID]
	if e == nil {
		if r.Canceled {
			return nil // after a compaction, by the client too
		}
		return errors.New("unknown watcher")
	}
	switch {
	case r.Canceled:
		delete(c.watching, r.WatchID)
		c.h.mu.Lock()
		defer c.h.mu.Unlock()
		if r.CompactRevision > c.h.compact || r.CompactRevision != 0 && r.CompactRevision < e.rev {
			return fmt.Errorf("compacted at %d, told up to %d", c.h.compact, e.rev)
		}
		return nil
	case len(r.Events) == 0:
		if !e.request.ProgressNotify {
			return errors.New("unwanted notification")
		}
		return c.checkProgress(e, r.Revision)
	}
	for _, encoded := range r.Events {
		ev := decode(encoded)
		want, rev := c.h.after(e, ev.Kv.ModRevision)
		if want == nil {
			return fmt.Errorf("%s at %d has not happened, is told again or is not watched", ev.Kv.Key, ev.Kv.ModRevision)
		}
		if err := c.compare(e, ev, want, rev); err != nil {
			return fmt.Errorf("%s at %d: %w", ev.Kv.Key, ev.Kv.ModRevision, err)
		}
	}
	if r.Revision < e.rev {
		return fmt.Errorf("header is behind the events, which reach %d", e.rev)
	}
	if want, rev := c.h.after(e, r.Revision); want != nil {
		return fmt.Errorf("%s at %d is missing, revision split?", want.key, rev)
	}
	return nil
}

// after returns the next change up to revision limit that the watcher must be
// told, and moves on behind it.
func (h *history) after(e *expectation, limit int64) (*change, int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for e.rev <= min(limit, h.last()) {
		changes := h.revisions[e.rev]
		for e.index < len(changes) {
			c := &changes[e.index]
			e.index++
			typ := mvccpb.Event_PUT
			if c.deleted {
				typ = mvccpb.Event_DELETE
			}
			if e.span.contains([]byte(c.key)) && !e.filter.drops(typ) {
				return c, e.rev
			}
		}
		if e.rev == limit {
			break
		}
		e.rev, e.index = e.rev+1, 0
	}
	return nil, 0
}

func (c *client) compare(e *expectation, ev *mvccpb.Event, want *change, rev int64) error {
	c.h.mu.Lock()
	compact := c.h.compact
	c.h.mu.Unlock()
	switch {
	case string(ev.Kv.Key) != want.key || ev.Kv.ModRevision != rev:
		return fmt.Errorf("want %s at %d", want.key, rev)
	case (ev.Type == mvccpb.Event_DELETE) != want.deleted || string(ev.Kv.Value) != want.value:
		return fmt.Errorf("want %+v", want)
	case ev.PrevKv == nil && want.hasPrev && e.request.PrevKv && compact < rev:
		return errors.New("previous version is missing")
	case ev.PrevKv != nil && (!want.hasPrev || !e.request.PrevKv || string(ev.PrevKv.Value) != want.prev):
		return fmt.Errorf("wrong previous version, want %+v", want)
	}
	return nil
}

// checkProgress checks that a watcher has been told everything up to a
// revision.
func (c *client) checkProgress(e *expectation, rev int64) error {
	if rev < e.request.StartRevision {
		return errors.New("progress before the start")
	}
	if rev < e.rev-1 {
		return errors.New("progress goes back")
	}
	if want, at := c.h.after(e, rev); want != nil {
		return fmt.Errorf("progress before %s at %d", want.key, at)
	}
	return nil
}
