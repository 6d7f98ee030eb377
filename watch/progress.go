package watch

import (
	"maps"
	"slices"
)

// RequestProgress asks for a response, for NoWatcher, with a revision up to
// which all watchers of the stream have been told everything, and that is not
// below the store's at the time of the call. It comes at once if nothing waits
// and no watcher lags, else as soon as that is so; requests that wait are
// answered together. There is no answer while the stream has no watcher, or
// has one whose start revision has not been reached.
func (s *Stream) RequestProgress() {
	rev, _ := s.hub.committed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progressWanted = true
	s.progressFrom = rev
	s.signal()
}

// answerProgress returns the answer to RequestProgress if it is due. Next
// calls it when it has nothing else to do.
func (s *Stream) answerProgress() *Response {
	h := s.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.progressWanted || len(s.ready) > 0 || len(s.control) > 0 {
		return nil
	}
	if h.rev < s.progressFrom {
		// Committed but not yet published: Publish is about to be called.
		h.waitMu.Lock()
		h.waiting = append(h.waiting, s)
		h.waitMu.Unlock()
		return nil
	}
	s.progressWanted = false
	watchers := 0
	for _, w := range s.watchers {
		if w.state == ended {
			continue
		}
		if !w.synced(h.rev) {
			return nil
		}
		watchers++
	}
	if watchers == 0 {
		return nil
	}
	return &Response{WatchID: NoWatcher, Revision: h.rev}
}

// synced reports whether the watcher has been told everything up to rev, the
// published revision, and has begun to watch by then.
func (w *watcher) synced(rev int64) bool {
	return w.state == live && len(w.waiting) == 0 && w.start <= rev
}

// tick ends a progress interval: watchers that want it and were told nothing
// meanwhile get a notification.
func (s *Stream) tick() {
	h := s.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.watchers)) {
		w := s.watchers[id]
		if !w.progress {
			continue
		}
		if w.notifyDue && w.synced(h.rev) {
			s.say(&Response{WatchID: id, Revision: h.rev})
		}
		w.notifyDue = true
	}
}
