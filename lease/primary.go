package lease

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
)

// How the leader ends leases. Every ExpiryPeriod it asks Expired for at most
// ExpiryLimit leases and proposes their revocation: a thousand a second.
const (
	ExpiryPeriod = 500 * time.Millisecond
	ExpiryLimit  = 500
)

const (
	// expiryRetry is how long after a lease was handed out as expired it is
	// handed out again, if it has not been revoked by then.
	expiryRetry = 3 * time.Second
	// maxExpiriesPerSecond is how many leases Promote lets end within any
	// second: three quarters of what can be revoked, so that leases which
	// pile up do not take the place of all others.
	maxExpiriesPerSecond = 750
)

// TimeToLive is what a client is told about a lease.
type TimeToLive struct {
	ID int64
	// Granted is the granted TTL in seconds.
	Granted int64
	// Remaining is the time left, rounded down to seconds; it is negative
	// for a lease that is over and not yet revoked for more than a second.
	Remaining int64
	// Keys are the attached keys in byte order, if they were asked for.
	Keys []string
}

// Promote starts the clock: every lease has from now on its checkpointed
// remaining TTL, else its full one, and extend, which the new leader gives to
// make up for the time without one. Where more leases would end within a
// second than can be revoked, the later ones get more. A lessor that is
// primary already starts over.
func (le *Lessor) Promote(extend time.Duration) {
	le.mu.Lock()
	defer le.mu.Unlock()
	le.stop()
	le.demoted = make(chan struct{})
	now := le.now()
	all := make([]*lease, 0, len(le.leases))
	for _, l := range le.leases {
		l.expiry = add(now, int64(extend), l.left())
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *lease) int {
		return cmp.Or(cmp.Compare(a.expiry, b.expiry), cmp.Compare(a.id, b.id))
	})
	for i, l := range all {
		if i >= maxExpiriesPerSecond {
			l.expiry = max(l.expiry, add(all[i-maxExpiriesPerSecond].expiry, int64(time.Second)))
		}
		le.expiry.set(l, l.expiry)
		le.scheduleCheckpoint(l, now)
	}
}

// Demote stops the clock: no lease ends here until the next Promote. Who
// waits in Renew gets ErrNotPrimary.
func (le *Lessor) Demote() {
	le.mu.Lock()
	defer le.mu.Unlock()
	le.stop()
}

func (le *Lessor) stop() {
	if le.demoted == nil {
		return
	}
	close(le.demoted)
	le.demoted = nil
	le.expiry.clear()
	le.checkpoints.clear()
	for _, l := range le.leases {
		l.expiry = forever
		l.checkpointing = false
		l.changed = nil // who waits for it waits for demoted too
	}
}

// start gives a lease its time, from now.
func (le *Lessor) start(l *lease, now, extend int64) {
	l.expiry = add(now, extend, l.left())
	le.expiry.set(l, l.expiry)
	le.scheduleCheckpoint(l, now)
}

// left returns the time, in nanoseconds, that a new leader must give l.
func (l *lease) left() int64 {
	ttl := l.ttl
	if l.remaining > 0 {
		ttl = l.remaining
	}
	return ttl * int64(time.Second)
}

// Renew gives a lease its full TTL again, from now, and returns that TTL in
// seconds. It is the leader's to answer, after it has confirmed that it leads.
//
// A lease that is over may be about to be revoked, so Renew waits until it is
// (ErrNotFound) or until the clock is stopped (ErrNotPrimary). If the log says
// that less than the full TTL remains, that must be taken back first, or the
// next leader would end the lease early: Renew then calls clear, which must
// propose a checkpoint of 0 seconds for the lease and return when that has
// been applied. The error is ErrNotFound, ErrNotPrimary, that of clear or of
// ctx.
func (le *Lessor) Renew(ctx context.Context, id int64, clear func(ctx context.Context) error) (int64, error) {
	for {
		le.mu.Lock()
		demoted := le.demoted
		if demoted == nil {
			le.mu.Unlock()
			return 0, ErrNotPrimary
		}
		l := le.leases[id]
		if l == nil {
			le.mu.Unlock()
			return 0, ErrNotFound
		}
		now := le.now()
		switch {
		case l.expiry <= now || l.checkpointing:
			if l.changed == nil {
				l.changed = make(chan struct{})
			}
			changed := l.changed
			le.mu.Unlock()
			select {
			case <-changed:
			case <-demoted:
				return 0, ErrNotPrimary
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		case l.remaining > 0:
			le.mu.Unlock()
			if err := clear(ctx); err != nil {
				return 0, err
			}
		default:
			l.expiry = add(now, l.left())
			// Its place in the queue is left as it is, unless it would come
			// up too late: Expired moves a lease that comes up too early.
			// So a renewal costs nothing there.
			if l.expiry < le.expiry.at(l) {
				le.expiry.set(l, l.expiry)
			}
			ttl := l.ttl
			le.mu.Unlock()
			renewed.Inc()
			return ttl, nil
		}
	}
}

// Expired returns up to limit leases that are over, those that ended first
// first, for the caller to revoke through the log. One that is not revoked is
// returned again after three seconds. It returns none when the clock does not
// run.
func (le *Lessor) Expired(limit int) []int64 {
	le.mu.Lock()
	defer le.mu.Unlock()
	now := le.now()
	var ids []int64
	for len(ids) < limit {
		l := le.expiry.first(now)
		if l == nil {
			break
		}
		if l.expiry > now {
			le.expiry.set(l, l.expiry) // renewed since
			continue
		}
		ids = append(ids, l.id)
		le.expiry.set(l, add(now, int64(expiryRetry)))
	}
	return ids
}

// TimeToLive returns what is known about a lease, with its keys on request.
// Only the leader knows the time that is left: elsewhere ErrNotPrimary, and
// ErrNotFound comes before it.
func (le *Lessor) TimeToLive(id int64, keys bool) (TimeToLive, error) {
	le.mu.RLock()
	l := le.leases[id]
	if l == nil {
		le.mu.RUnlock()
		return TimeToLive{}, ErrNotFound
	}
	if le.demoted == nil {
		le.mu.RUnlock()
		return TimeToLive{}, ErrNotPrimary
	}
	t := TimeToLive{ID: id, Granted: l.ttl, Remaining: (l.expiry - le.now()) / int64(time.Second)}
	if keys {
		t.Keys = l.keys.list()
	}
	le.mu.RUnlock()
	slices.Sort(t.Keys)
	return t, nil
}

// add returns t plus ds, or the largest number if that is more.
func add(t int64, ds ...int64) int64 {
	for _, d := range ds {
		if t > math.MaxInt64-d {
			return math.MaxInt64
		}
		t += d
	}
	return t
}
