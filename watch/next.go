package watch

import (
	"context"
	"errors"
	"slices"
)

// Next returns the next response as soon as there is one. The error is that
// of ctx, ErrClosed, or what the disk said; after it the stream is to be
// closed. Next does the work for watchers that lag: it may read from the disk.
func (s *Stream) Next(ctx context.Context) (*Response, error) {
	for {
		if r, err := s.poll(ctx); r != nil || err != nil {
			return r, err
		}
		select {
		case <-s.wake:
		case <-s.ticker.C:
			s.tick()
		case <-ctx.Done():
		}
	}
}

// poll returns the next response, or nil if there is nothing to say now.
func (s *Stream) poll(ctx context.Context) (*Response, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case <-s.ticker.C:
			s.tick()
		default:
		}
		r, w, waiting, err := s.take()
		switch {
		case r != nil || err != nil:
			return r, err
		case waiting != nil:
			return s.deliver(w, waiting)
		case w == nil:
			return s.answerProgress(), nil
		}
		if err := s.catchUp(ctx, w); err != nil {
			return nil, err
		}
	}
}

// take returns what is next to do: a response to be returned, or a watcher
// and what waits for it, or a lagging watcher to be brought forward, or
// nothing.
func (s *Stream) take() (*Response, *watcher, []queued, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, nil, ErrClosed
	}
	if len(s.control) > 0 {
		r := s.control[0]
		s.control[0] = nil
		s.control = s.control[1:]
		s.signalRoom()
		return r, nil, nil, nil
	}
	for len(s.ready) > 0 {
		w := s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		w.ready = false
		if w.state == ended {
			continue
		}
		if len(w.waiting) > 0 {
			waiting := w.waiting
			w.waiting = nil
			for _, q := range waiting {
				s.bytes -= q.charge
			}
			s.charged = nil
			w.notifyDue = false
			if w.state == lagging {
				s.enqueue(w)
			}
			return nil, w, waiting, nil
		}
		if w.state != lagging {
			continue
		}
		if s.bytes > s.hub.limits.queueBytes {
			s.enqueue(w) // those for whom something waits first
			continue
		}
		return nil, w, nil, nil
	}
	return nil, nil, nil, nil
}

// deliver makes a response of what waited for a watcher: all of it, unless
// previous versions make it too large.
func (s *Stream) deliver(w *watcher, waiting []queued) (*Response, error) {
	r := &Response{WatchID: w.id, Fragment: w.fragment}
	n := 0
	for _, q := range waiting {
		n += len(q.events)
	}
	pendingEventsTotal.Sub(float64(n))
	var all []*Event
	size := 0
	for i, q := range waiting {
		events, err := q.encoded(s.hub, w.prevKV)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			all = events
		} else {
			all = append(all, events...) // copies: events has no spare capacity
		}
		r.Revision = q.last()
		if !w.prevKV || i+1 == len(waiting) {
			continue // what waits without previous versions is bounded already
		}
		for _, e := range events {
			size += e.Size()
		}
		if size >= s.hub.limits.queueBytes {
			s.putBack(w, waiting[i+1:])
			break
		}
	}
	eventsTotal.Add(float64(len(all)))
	r.Events = all
	return r, nil
}

// putBack has what was taken wait again, before what Publish queued meanwhile.
func (s *Stream) putBack(w *watcher, rest []queued) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.state == ended {
		return
	}
	for _, q := range rest {
		s.bytes += q.charge
		pendingEventsTotal.Add(float64(len(q.events)))
	}
	w.waiting = slices.Concat(rest, w.waiting)
	s.enqueue(w)
}

// told is a lagging watcher and the revision from which on it is to be told.
type told struct {
	*watcher
	from int64
}

// catchUp gives a lagging watcher, for which nothing waits, the next piece of
// history, and with it the other such watchers of the stream that are within
// that piece.
func (s *Stream) catchUp(ctx context.Context, w *watcher) error {
	group, batches, ok := s.remembered(w)
	if !ok {
		var err error
		if group, batches, err = s.stored(ctx, w); err != nil {
			return err
		}
	}
	s.give(group, batches)
	return nil
}

// remembered takes the piece from what the hub remembers; ok is false if that
// does not reach far enough back. If it is all there is, the watchers are live
// from then on: what is published before they are given the piece will wait
// behind it.
func (s *Stream) remembered(w *watcher) (group []told, batches []*batch, ok bool) {
	h := s.hub
	h.mu.RLock() // excludes Publish, so for a moment only: who wants what is found out later
	defer h.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.state != lagging {
		return nil, nil, true
	}
	batches, upTo, ok := h.recent.since(w.next, h.rev, h.limits.chunkBytes)
	if !ok {
		return nil, nil, false
	}
	group = s.within(w, upTo)
	s.advance(group, upTo)
	if upTo == h.rev {
		for _, t := range group {
			s.rise(t.watcher)
		}
	}
	return group, batches, true
}

// stored reads the piece from the store. Watchers that need what has been
// compacted are canceled.
func (s *Stream) stored(ctx context.Context, w *watcher) ([]told, []*batch, error) {
	h := s.hub
	rev := h.Revision()
	s.mu.Lock()
	from := w.next
	to := min(rev, from+h.limits.chunkRevisions-1)
	group := s.within(w, to)
	s.mu.Unlock()
	b, upTo, err := h.history(ctx, from, to, func(key []byte) bool {
		for _, t := range group {
			if t.group.contains(key) {
				return true
			}
		}
		return false
	})
	var behind behindError
	if errors.As(err, &behind) {
		s.compacted(group, behind.compact)
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	group = slices.DeleteFunc(group, func(t told) bool { return t.from > upTo })
	s.mu.Lock()
	s.advance(group, upTo)
	s.mu.Unlock()
	return group, []*batch{b}, nil
}

// advance notes that the watchers of the group are about to be told everything
// up to revision upTo.
func (s *Stream) advance(group []told, upTo int64) {
	for _, t := range group {
		t.next = upTo + 1
		if t.state == lagging {
			s.enqueue(t.watcher)
		}
	}
}

// within returns w and the other lagging watchers for which nothing waits and
// which have come at least as far as w, but not beyond revision to.
func (s *Stream) within(w *watcher, to int64) []told {
	group := []told{{w, w.next}}
	for _, o := range s.ready {
		if o != w && o.state == lagging && len(o.waiting) == 0 && w.next <= o.next && o.next <= to {
			group = append(group, told{o, o.next})
		}
	}
	return group
}

// give queues, for each watcher of the group, what concerns it in the batches.
// It goes in front of what Publish queued meanwhile.
func (s *Stream) give(group []told, batches []*batch) {
	bytes := 0
	for _, b := range batches {
		bytes += b.bytes
	}
	pending := 0
	for i, t := range group {
		var events []*event
		for _, b := range batches {
			for j := range b.events {
				if e := &b.events[j]; e.rev >= t.from && t.group.wants(e.Event) {
					events = append(events, e)
				}
			}
		}
		if len(events) == 0 {
			continue
		}
		d := newDelivery(events)
		// What the watchers share is charged to the last, which holds it
		// longest.
		charge := entryBytes
		if i == len(group)-1 {
			charge += bytes
		}
		s.mu.Lock()
		if t.state != ended {
			s.bytes += charge
			t.waiting = slices.Insert(t.waiting, 0, queued{d, charge})
			s.enqueue(t.watcher)
			pending += len(events)
		}
		s.mu.Unlock()
	}
	pendingEventsTotal.Add(float64(pending))
}

// compacted ends the watchers of the group that need what has been compacted.
func (s *Stream) compacted(group []told, compact int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range group {
		if t.state != lagging {
			continue
		}
		if t.next >= compact {
			s.enqueue(t.watcher)
			continue
		}
		s.end(t.watcher)
		s.sayCompacted(t.watcher, compact)
	}
}
