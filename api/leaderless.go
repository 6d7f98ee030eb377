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

// leaderless ends the streams that need a leader when there has been none for too long.
type leaderless struct {
	mu      sync.Mutex
	next    uint64
	cancels map[uint64]context.CancelCauseFunc
}

// add registers a stream by its cancel function. The function it returns takes it out again.
func (l *leaderless) add(cancel context.CancelCauseFunc) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancels == nil {
		l.cancels = make(map[uint64]context.CancelCauseFunc)
	}
	id := l.next
	l.next++
	l.cancels[id] = cancel
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.cancels, id)
	}
}

func (l *leaderless) cancelAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, cancel := range l.cancels {
		cancel(rpctypes.ErrGRPCNoLeader)
		delete(l.cancels, id)
	}
}

// watchLeader looks for a leader at every tick, one an election timeout, until stop is closed.
func (l *leaderless) watchLeader(hasLeader func() bool, ticks <-chan time.Time, stop <-chan struct{}) {
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
			l.cancelAll()
		}
	}
}
