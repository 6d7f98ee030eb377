package watch

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Stream carries the responses of many watchers to one client. Next is for
// one goroutine; the other methods may be called from any.
type Stream struct {
	hub    *Hub
	wake   chan struct{} // one signal that Next has something to look at
	room   chan struct{} // one signal that there is less in control; see Room
	ticker *time.Ticker  // progress interval; read by Next only

	mu       sync.Mutex
	closed   bool
	watchers map[int64]*watcher
	nextID   int64       // candidate for the next id to choose
	control  []*Response // responses that are no events; they go first
	ready    []*watcher  // those with events waiting or lagging, in turn
	bytes    int         // of what waits, see queued
	charged  *delivery   // what bytes was last charged for

	progressWanted bool  // RequestProgress is to be answered
	progressFrom   int64 // with this revision or a later one
}

// watcher is one watcher of a stream. Fields without a comment do not change
// after it was created.
type watcher struct {
	stream   *Stream
	id       int64
	start    int64 // revision asked for; 0: from now on
	prevKV   bool
	fragment bool
	progress bool // wants notifications

	group *group // nil if it had ended before it began
	place int    // in group.watchers; guarded by Hub.mu

	// Guarded by Stream.mu:

	state state
	// next is the lowest revision of which the watcher has not been told and
	// has nothing waiting. For a live watcher a lower bound: it has been told
	// of everything published.
	next      int64
	waiting   []queued
	ready     bool // is in Stream.ready
	notifyDue bool // no event since the last tick of the progress interval
}

type state uint8

const (
	live    state = iota // Publish passes events on
	lagging              // Next fetches events, from next on
	ended                // canceled because of a compaction; its id is taken until the client cancels too
)

// queued is a delivery that waits, and how many bytes the stream was charged
// for it.
type queued struct {
	*delivery
	charge int
}

// entryBytes is charged for every delivery, beside what its events take,
// which is charged once if several watchers in a row get the same.
const entryBytes = 128

// maxControl bounds the answers to requests that wait, if the caller asks Room.
const maxControl = 64

// Room returns when few enough answers wait for another request to be taken
// in: a client that does not read must not have the stream collect answers
// without end. The error is that of ctx. It is for one goroutine.
func (s *Stream) Room(ctx context.Context) error {
	for {
		s.mu.Lock()
		ok := s.closed || len(s.control) < maxControl
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Watch creates a watcher. The stream answers by a response with Created set,
// and Canceled too if the request cannot be fulfilled, for the reasons for
// which etcd refuses it. That the client may read the range has been checked
// by the caller. r is not kept.
func (s *Stream) Watch(r *pb.WatchCreateRequest) {
	if r.StartRevision < 0 {
		s.Refuse(reasonCompacted)
		return
	}
	span := makeSpan(r.Key, r.RangeEnd)
	if span.empty() {
		s.Refuse(reasonEmptyRange)
		return
	}
	h := s.hub
	_, compact := h.committed()
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	id := r.WatchId
	if id == 0 {
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	} else if s.watchers[id] != nil {
		s.refuse(h.rev, reasonDuplicate)
		return
	}
	w := &watcher{
		stream: s, id: id, start: r.StartRevision,
		prevKV: r.PrevKv, fragment: r.Fragment, progress: r.ProgressNotify,
		notifyDue: true,
	}
	s.watchers[id] = w
	s.say(&Response{WatchID: id, Revision: h.rev, Created: true})
	if w.start > 0 && w.start < compact {
		w.state = ended
		s.sayCompacted(w, compact)
		return
	}
	watchersTotal.Inc()
	h.index.add(w, span, makeFilter(r.Filters))
	w.next = w.start
	if w.start == 0 {
		w.next = h.rev + 1
	}
	if w.next <= h.rev {
		s.fall(w)
	}
}

// Refuse answers a request to create a watcher with the reason why the caller
// refuses it.
func (s *Stream) Refuse(reason string) {
	rev := s.hub.Revision()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse(rev, reason)
}

func (s *Stream) refuse(rev int64, reason string) {
	s.say(&Response{WatchID: NoWatcher, Revision: rev, Created: true, Canceled: true, CancelReason: reason})
}

// Cancel ends a watcher; the stream answers by a response with Canceled set,
// after which there are none of that watcher. An unknown id is not answered.
func (s *Stream) Cancel(id int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[id]
	if w == nil {
		return
	}
	s.end(w)
	delete(s.watchers, id)
	s.say(&Response{WatchID: id, Revision: h.rev, Canceled: true})
}

// Close ends the stream and its watchers. Next returns ErrClosed.
func (s *Stream) Close() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.streams[s]; !ok {
		return
	}
	delete(h.streams, s)
	streamsTotal.Dec()
	s.ticker.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		s.end(w)
	}
	s.closed = true
	s.watchers, s.control, s.ready = nil, nil, nil
	s.signal()
	s.signalRoom()
}

// end takes a watcher out of everything but the map of the stream. Both locks
// are held.
func (s *Stream) end(w *watcher) {
	if w.state == ended {
		return
	}
	s.hub.index.remove(w)
	s.rise(w)
	w.state = ended
	for _, q := range w.waiting {
		s.bytes -= q.charge
		pendingEventsTotal.Sub(float64(len(q.events)))
	}
	w.waiting = nil
	watchersTotal.Dec()
}

// offer gives a delivery to a live watcher, or lets it lag if there is no room.
// It returns how many events it took; the stream is still to be woken for them.
// Publish calls it, with Hub.mu held.
func (s *Stream) offer(w *watcher, d *delivery) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.state != live {
		return 0
	}
	if d = d.from(w.next); d == nil {
		return 0
	}
	charge := entryBytes
	if d != s.charged {
		charge += d.bytes
	}
	if s.bytes+charge > s.hub.limits.queueBytes {
		w.next = d.first()
		s.fall(w)
		return 0
	}
	s.bytes += charge
	s.charged = d
	w.waiting = append(w.waiting, queued{d, charge})
	s.line(w)
	return len(d.events)
}

// fallBehind lets the live watchers lag that have not been told of some
// revision below end. All have been told of those below told.
func (s *Stream) fallBehind(told, end int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.watchers)) {
		w := s.watchers[id]
		if w.state != live {
			continue
		}
		w.next = max(w.next, told)
		if w.next <= end {
			s.fall(w)
		}
	}
}

// fall makes a live watcher a lagging one.
func (s *Stream) fall(w *watcher) {
	w.state = lagging
	slowWatchersTotal.Inc()
	s.enqueue(w)
}

// rise makes a lagging watcher a live one.
func (s *Stream) rise(w *watcher) {
	if w.state == lagging {
		w.state = live
		slowWatchersTotal.Dec()
	}
}

// enqueue lets a watcher have its turn in Next, and wakes the stream.
func (s *Stream) enqueue(w *watcher) {
	s.line(w)
	s.signal()
}

// line puts a watcher in the line of those that have their turn in Next.
func (s *Stream) line(w *watcher) {
	if !w.ready {
		w.ready = true
		s.ready = append(s.ready, w)
	}
}

// say queues a response that is no event.
func (s *Stream) say(r *Response) {
	s.control = append(s.control, r)
	s.signal()
}

// sayCompacted queues the response that cancels a watcher because what it
// needs has been compacted. etcd leaves the header's revision 0 here.
func (s *Stream) sayCompacted(w *watcher, compact int64) {
	s.say(&Response{WatchID: w.id, Canceled: true, CompactRevision: compact})
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Stream) signalRoom() {
	select {
	case s.room <- struct{}{}:
	default:
	}
}
