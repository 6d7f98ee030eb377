package api

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// leaderlessLimit is for how many election timeouts in a row there must have been no leader before streams that need one
// are ended. Starting a stream again costs more than refusing a request, hence the patience.
const leaderlessLimit = 3

// streams are the streams that are open, so that they can be ended from this side: when the member stops, or, those that
// need a leader, when there has been none for too long.
type streams struct {
	mu      sync.Mutex
	stopped bool
	next    uint64
	open    map[uint64]openStream
}

type openStream struct {
	cancel      context.CancelCauseFunc
	needsLeader bool
}

// add registers a stream by the cancel function of its context. The function it returns takes it out again.
func (s *streams) add(cancel context.CancelCauseFunc, needsLeader bool) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		cancel(rpctypes.ErrGRPCStopped)
		return func() {}
	}
	if s.open == nil {
		s.open = make(map[uint64]openStream)
	}
	id := s.next
	s.next++
	s.open[id] = openStream{cancel, needsLeader}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, id)
	}
}

// stop ends all streams, and those that are yet to come.
func (s *streams) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for id, o := range s.open {
		o.cancel(rpctypes.ErrGRPCStopped)
		delete(s.open, id)
	}
}

// loseLeader ends the streams that need a leader.
func (s *streams) loseLeader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.open {
		if o.needsLeader {
			o.cancel(rpctypes.ErrGRPCNoLeader)
			delete(s.open, id)
		}
	}
}

// watchLeader looks for a leader at every tick, one an election timeout, until stop is closed.
func (s *streams) watchLeader(hasLeader func() bool, ticks <-chan time.Time, stop <-chan struct{}) {
	missed := 0
	for {
		select {
		case <-stop:
			return
		case <-ticks:
		}
		if hasLeader() {
			missed = 0
			continue
		}
		if missed++; missed >= leaderlessLimit {
			s.loseLeader()
		}
	}
}
