package auth

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var failedLogins = prometheus.NewCounter(prometheus.CounterOpts{
	Namespace: "coffer", Subsystem: "auth", Name: "failed_logins_total",
	Help: "Logins that were refused because of the name or the password.",
})

func init() { prometheus.MustRegister(failedLogins) }

const (
	// freeFailures is how many failures in a row are answered at once: people make mistakes.
	freeFailures = 3
	// firstDelay is the delay of the next; each further one doubles it, up to maxDelay.
	firstDelay = 100 * time.Millisecond
	maxDelay   = 5 * time.Second
	// forgetAfter is how long after its last failure a pair has a clean slate again.
	forgetAfter = 15 * time.Minute
	// maxPairs bounds how many pairs are remembered.
	maxPairs = 8192
)

// Logins slows down who tries passwords. Each pair of a user and an address has failures of its own, so that nobody keeps
// others from logging in; and only the answer to a failure is delayed, so that the right password is never kept waiting.
type Logins struct {
	seed maphash.Seed
	now  func() time.Duration

	mu    sync.Mutex
	pairs map[uint64]failures
	swept time.Duration // when forgotten pairs were last removed
}

type failures struct {
	count int
	last  time.Duration
}

// NewLogins returns logins of which none has failed.
func NewLogins() *Logins {
	return &Logins{seed: maphash.MakeSeed(), now: clock(), pairs: make(map[uint64]failures)}
}

// pair stands for a user and an address, whatever their lengths. Two that happen to be the same share their delay.
func (l *Logins) pair(user, address string) uint64 {
	return maphash.Comparable(l.seed, [2]string{user, address})
}

// Succeeded forgets the failures of a pair.
func (l *Logins) Succeeded(user, address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pairs, l.pair(user, address))
}

// Failed counts a failure and returns when it may be answered, or when ctx ends or stop is closed.
func (l *Logins) Failed(ctx context.Context, stop <-chan struct{}, user, address string) {
	failedLogins.Inc()
	delay := l.count(user, address)
	if delay == 0 {
		return
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-stop:
	}
}

func (l *Logins) count(user, address string) (delay time.Duration) {
	p, now := l.pair(user, address), l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.pairs[p]
	if now-f.last > forgetAfter {
		f.count = 0
	}
	if _, known := l.pairs[p]; !known {
		l.makeRoom(now)
	}
	f.count, f.last = f.count+1, now
	l.pairs[p] = f
	if f.count <= freeFailures {
		return 0
	}
	// More doublings than these are above the bound anyhow.
	return min(firstDelay<<min(f.count-freeFailures-1, 10), maxDelay)
}

// makeRoom makes room for one more pair: those go that would be forgotten anyhow, or else the one that has failed least
// and longest ago among a few. Whoever fills the table with names makes it forget such names, not the pairs that it has
// many failures of.
func (l *Logins) makeRoom(now time.Duration) {
	if len(l.pairs) < maxPairs {
		return
	}
	if now-l.swept > forgetAfter/10 {
		l.swept = now
		for p, f := range l.pairs {
			if now-f.last > forgetAfter {
				delete(l.pairs, p)
			}
		}
		if len(l.pairs) < maxPairs {
			return
		}
	}
	const sample = 64
	var victim uint64
	var least failures
	n := 0
	for p, f := range l.pairs {
		if n == 0 || f.count < least.count || f.count == least.count && f.last < least.last {
			victim, least = p, f
		}
		if n++; n == sample {
			break
		}
	}
	delete(l.pairs, victim)
}
