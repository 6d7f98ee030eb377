package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/cofferkv/coffer/mvcc"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/semaphore"
)

// Options configures a Hub.
type Options struct {
	// ProgressInterval is how often an idle watcher that asked for progress
	// notifications gets one, give or take a tenth. 0: 10 minutes.
	ProgressInterval time.Duration
}

const defaultProgressInterval = 10 * time.Minute

// limits bounds the memory of a hub and its streams.
type limits struct {
	recentBytes    int   // of events that the hub remembers
	queueBytes     int   // of events and entries that wait in one stream
	chunkBytes     int   // of events that a lagging watcher is given at a time
	chunkRevisions int64 // that are read from the store at a time
}

var defaultLimits = limits{
	recentBytes:    4 << 20,
	queueBytes:     1 << 20,
	chunkBytes:     512 << 10,
	chunkRevisions: 10_000,
}

// Hub hands the events of committed batches to watchers. Its methods may be
// called from any goroutine, Publish and Restore only from the one that
// applies.
//
// Locks are taken in this order: storeMu, mu, a Stream's mu.
type Hub struct {
	progressInterval time.Duration
	limits           limits

	readers *semaphore.Weighted // who may read history from the store; in order of arrival

	storeMu sync.RWMutex // held for reading while the store is read
	store   *mvcc.DB     // nil when closed

	mu      sync.RWMutex
	closed  bool
	rev     int64 // up to which everything was published
	recent  recent
	index   *index
	streams map[*Stream]struct{}
	touched []*group // scratch of Publish
	found   []*group // scratch of Publish

	waitMu  sync.Mutex
	waiting []*Stream // to be woken by the next Publish; see Stream.progress
}

// New returns a hub that has published everything up to the revision of db.
func New(db *mvcc.DB, o Options) *Hub {
	if o.ProgressInterval == 0 {
		o.ProgressInterval = defaultProgressInterval
	}
	h := &Hub{
		progressInterval: o.ProgressInterval,
		limits:           defaultLimits,
		readers:          semaphore.NewWeighted(int64(max(4, 2*runtime.GOMAXPROCS(0)))),
		store:            db,
		rev:              revisionOf(db),
		index:            newIndex(),
		streams:          make(map[*Stream]struct{}),
	}
	h.recent.from = h.rev + 1
	return h
}

func revisionOf(db *mvcc.DB) int64 {
	v := db.View()
	defer v.Close()
	return v.Revision()
}

// Publish hands out the events of a batch that has been committed and ends at
// revision rev. The hub keeps the slice. Publish never waits for a client nor
// for the disk. Every revision must come exactly once and in order; it panics
// otherwise, before a watcher could be told something wrong.
func (h *Hub) Publish(rev int64, revisions []mvcc.Events) {
	b := newBatch(revisions)
	h.mu.Lock()
	h.checkOrder(rev, revisions)
	h.rev = rev
	if len(b.events) > 0 {
		h.recent.add(b, h.limits.recentBytes)
	}
	touched := h.touched[:0]
	for i := range b.events {
		e := &b.events[i]
		h.found = h.index.find(e.Event, h.found[:0])
		for _, g := range h.found {
			if g.matched == nil {
				touched = append(touched, g)
			}
			g.matched = append(g.matched, e)
		}
	}
	pending := 0
	for _, g := range touched {
		d := newDelivery(g.matched)
		g.matched = nil
		for _, w := range g.watchers {
			pending += w.stream.offer(w, d)
		}
		h.wake(g)
	}
	clear(touched)
	clear(h.found)
	h.touched = touched
	h.mu.Unlock()
	pendingEventsTotal.Add(float64(pending))

	h.waitMu.Lock()
	waiting := h.waiting
	h.waiting = nil
	h.waitMu.Unlock()
	for _, s := range waiting {
		s.signal()
	}
}

// To tell a watcher something costs much more than to tell it one event more:
// goroutines wake up here and at the client, packets travel. If many watch a
// range that changes all the time, this would keep everyone busy. Therefore a
// group rests after it has been woken, the longer the more watchers it has, and
// is then told all that has happened meanwhile. What happens after a rest is
// told at once, and small groups never rest.
const (
	restPerWatcher = 50 * time.Microsecond
	minRest        = 500 * time.Microsecond
	maxRest        = 5 * time.Millisecond
)

// wake lets the streams of a group take what they have been offered, now or
// after its rest. Publish calls it, with mu held.
func (h *Hub) wake(g *group) {
	rest := min(time.Duration(len(g.watchers))*restPerWatcher, maxRest)
	if rest < minRest {
		g.signal()
		return
	}
	if g.resting {
		return
	}
	now := time.Now()
	if left := g.rested.Sub(now); left > 0 {
		g.resting = true
		time.AfterFunc(left, func() { h.endRest(g, rest) })
		return
	}
	g.rested = now.Add(rest)
	g.signal()
}

// endRest wakes a group for which something was published during its rest; the
// next one begins.
func (h *Hub) endRest(g *group, rest time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g.resting = false
	g.rested = time.Now().Add(rest)
	g.signal()
}

func (h *Hub) checkOrder(rev int64, revisions []mvcc.Events) {
	last := h.rev
	for i := range revisions {
		if revisions[i].Revision != last+1 {
			panic(fmt.Sprintf("watch: revision %d published after %d", revisions[i].Revision, last))
		}
		last++
	}
	if rev != last {
		panic(fmt.Sprintf("watch: published up to revision %d, but the events end at %d", rev, last))
	}
}

// Restore goes on with db, which holds the content of a leader's snapshot
// instead of the former store. When it returns, nothing reads from that any
// more. Watchers go on where they are: what they have not been told yet they
// are told from db, or they are canceled if it has been compacted there.
func (h *Hub) Restore(db *mvcc.DB) {
	h.storeMu.Lock()
	h.store = db
	h.storeMu.Unlock()

	rev := revisionOf(db)
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		s.fallBehind(h.rev+1, rev)
	}
	h.rev = rev
	h.recent = recent{from: rev + 1}
}

// Revision returns the revision up to which everything has been published.
func (h *Hub) Revision() int64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.rev
}

// NewStream returns a stream without watchers. It must be closed.
func (h *Hub) NewStream() *Stream {
	interval := h.progressInterval
	s := &Stream{
		hub:      h,
		watchers: make(map[int64]*watcher),
		wake:     make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		// Clients that start together should not be notified together.
		ticker: time.NewTicker(interval + rand.N(interval/10+1)),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.closed = h.closed
	h.streams[s] = struct{}{}
	streamsTotal.Inc()
	return s
}

// Close ends all streams: Next returns ErrClosed. When Close returns, nothing
// reads from the store any more.
func (h *Hub) Close() {
	h.storeMu.Lock()
	h.store = nil
	h.storeMu.Unlock()

	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.streams {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.signal()
	}
}

// behindError says that a watcher needs events that have been compacted.
type behindError struct{ compact int64 }

func (e behindError) Error() string {
	return fmt.Sprintf("watch: history up to revision %d has been compacted", e.compact)
}

// history reads events from the store: those of revisions from to to that
// match, up to the limit of a chunk. It returns the revision up to which they
// are complete. The error is behindError, ErrClosed, that of ctx, or what the
// disk said.
func (h *Hub) history(ctx context.Context, from, to int64, match func(key []byte) bool) (*batch, int64, error) {
	if err := h.readers.Acquire(ctx, 1); err != nil {
		return nil, 0, err
	}
	defer h.readers.Release(1)
	h.storeMu.RLock()
	defer h.storeMu.RUnlock()
	if h.store == nil {
		return nil, 0, ErrClosed
	}
	v := h.store.View()
	defer v.Close()
	revisions, next, err := v.Events(ctx, from, to, mvcc.EventsOptions{Match: match, MaxBytes: h.limits.chunkBytes})
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil, 0, behindError{v.CompactRevision()}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("watch: reading revisions %d to %d: %w", from, to, err)
	}
	return newBatch(revisions), next - 1, nil
}

// prevKV reads the version of a key before an event; nil if it has been
// compacted.
func (h *Hub) prevKV(e *mvcc.Event) (*mvccpb.KeyValue, error) {
	h.storeMu.RLock()
	defer h.storeMu.RUnlock()
	if h.store == nil {
		return nil, ErrClosed
	}
	v := h.store.View()
	defer v.Close()
	kv, err := v.PrevKV(e)
	if err != nil {
		return nil, fmt.Errorf("watch: reading the previous version of a key changed at revision %d: %w", e.KV.ModRevision, err)
	}
	return kv, nil
}

// committed returns the revision and the compact revision of the store, which
// may be ahead of what has been published; 0, 0 if the hub is closed.
func (h *Hub) committed() (rev, compact int64) {
	h.storeMu.RLock()
	defer h.storeMu.RUnlock()
	if h.store == nil {
		return 0, 0
	}
	v := h.store.View()
	defer v.Close()
	return v.Revision(), v.CompactRevision()
}
