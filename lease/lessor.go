package lease

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Options configures a Lessor.
type Options struct {
	// Now is the leader's clock; it must never go back. nil is time.Now,
	// whose monotonic reading it is that counts.
	Now func() time.Time
	// CheckpointInterval is how often the remaining TTL of a long lease is
	// put into the log, so that a new leader need not grant it in full. 0,
	// the default, is never.
	CheckpointInterval time.Duration
}

// Lessor holds all leases of a cluster. Its methods may be called from any
// goroutine, those that change replicated state from one only.
type Lessor struct {
	now                func() int64 // nanoseconds since New
	checkpointInterval time.Duration

	mu          sync.RWMutex
	leases      map[int64]*lease
	demoted     chan struct{} // closed by Demote; nil when not primary
	expiry      queue
	checkpoints queue
}

// forever is the expiry of a lease while no clock runs.
const forever = math.MaxInt64

// lease is one lease; the Lessor's mutex guards it.
type lease struct {
	id, ttl, remaining int64 // as in Record
	keys               keySet

	// The rest is the leader's alone.

	expiry        int64          // when it ends, on the lessor's clock, or forever
	place         [numQueues]int // place in each queue, from 1; 0 when not in it
	checkpointing bool           // a checkpoint was handed out and is not back
	changed       chan struct{}  // if not nil, closed when it is revoked or a checkpoint comes back
}

func (l *lease) record() Record {
	return Record{ID: l.id, TTL: l.ttl, Remaining: l.remaining}
}

// wake lets go who waits for a change.
func (l *lease) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// New returns a lessor without leases whose clock does not run.
func New(o Options) *Lessor {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	start := now()
	return &Lessor{
		now:                func() int64 { return int64(now().Sub(start)) },
		checkpointInterval: o.CheckpointInterval,
		leases:             make(map[int64]*lease),
		expiry:             queue{which: expiryQueue},
		checkpoints:        queue{which: checkpointQueue},
	}
}

// Grant adds a lease. The request must have gone through Prepare before it
// was proposed; a TTL below a second counts as one. It returns the record to
// be stored, or ErrNotFound for id 0, ErrTTLTooLarge or ErrExists, in this
// order, as etcd does.
func (le *Lessor) Grant(id, ttl int64) (Record, error) {
	if id == 0 {
		return Record{}, ErrNotFound
	}
	if ttl > MaxTTL {
		return Record{}, ErrTTLTooLarge
	}
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.leases[id] != nil {
		return Record{}, ErrExists
	}
	l := &lease{id: id, ttl: max(ttl, 1), expiry: forever}
	le.leases[id] = l
	if le.demoted != nil {
		le.start(l, le.now(), 0)
	}
	granted.Inc()
	grantedTTL.Observe(float64(l.ttl))
	return l.record(), nil
}

// Revoke removes a lease and returns the keys that were attached to it, in
// byte order, so that every member deletes them in the same order. The caller
// deletes the keys and the stored record.
func (le *Lessor) Revoke(id int64) (keys []string, err error) {
	le.mu.Lock()
	l := le.leases[id]
	if l == nil {
		le.mu.Unlock()
		return nil, ErrNotFound
	}
	delete(le.leases, id)
	le.expiry.remove(l)
	le.checkpoints.remove(l)
	l.wake()
	le.mu.Unlock()
	revoked.Inc()
	keys = l.keys.list()
	slices.Sort(keys)
	return keys, nil
}

// Checkpoint sets the remaining TTL of a lease, in seconds; 0 is the full TTL
// again. The leader's clock is not touched: the number counts when the next
// leader starts its own. It returns the record to be stored, and false if
// there is no such lease, which is no error.
func (le *Lessor) Checkpoint(id, remaining int64) (Record, bool) {
	le.mu.Lock()
	defer le.mu.Unlock()
	l := le.leases[id]
	if l == nil {
		return Record{}, false
	}
	l.remaining = min(max(remaining, 0), MaxTTL)
	le.settleCheckpoint(l)
	return l.record(), true
}

// Attach attaches a key, which is copied, to a lease. A key that moves from
// one lease to another must be detached from the first.
func (le *Lessor) Attach(id int64, key []byte) error {
	le.mu.Lock()
	defer le.mu.Unlock()
	l := le.leases[id]
	if l == nil {
		return ErrNotFound
	}
	l.keys.add(key)
	return nil
}

// Detach detaches a key from a lease. It does nothing if the lease is gone or
// does not hold the key: a revoked lease has let go of its keys already.
func (le *Lessor) Detach(id int64, key []byte) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if l := le.leases[id]; l != nil {
		l.keys.remove(key)
	}
}

// Load adds a stored lease at start, before its keys are attached.
func (le *Lessor) Load(r Record) error {
	if err := r.check(); err != nil {
		return err
	}
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.leases[r.ID] != nil {
		return fmt.Errorf("loading lease %x: %w", uint64(r.ID), ErrExists)
	}
	l := &lease{id: r.ID, ttl: r.TTL, remaining: r.Remaining, expiry: forever}
	le.leases[r.ID] = l
	if le.demoted != nil {
		le.start(l, le.now(), 0)
	}
	return nil
}

// Reset demotes the lessor and drops all its leases, before those of a
// snapshot are loaded.
func (le *Lessor) Reset() {
	le.Demote()
	le.mu.Lock()
	defer le.mu.Unlock()
	le.leases = make(map[int64]*lease)
}

// Lookup returns the record of a lease.
func (le *Lessor) Lookup(id int64) (Record, bool) {
	le.mu.RLock()
	defer le.mu.RUnlock()
	l := le.leases[id]
	if l == nil {
		return Record{}, false
	}
	return l.record(), true
}

// Keys returns the keys attached to a lease, in byte order.
func (le *Lessor) Keys(id int64) ([]string, error) {
	le.mu.RLock()
	l := le.leases[id]
	if l == nil {
		le.mu.RUnlock()
		return nil, ErrNotFound
	}
	keys := l.keys.list()
	le.mu.RUnlock()
	slices.Sort(keys)
	return keys, nil
}

// AllKeys reports whether ok says so of every key attached to a lease, in no
// order; a lease that is not there has none. ok must not call the Lessor.
func (le *Lessor) AllKeys(id int64, ok func(key string) bool) bool {
	le.mu.RLock()
	defer le.mu.RUnlock()
	l := le.leases[id]
	return l == nil || l.keys.all(ok)
}

// Leases returns the ids of all leases, those that end first first.
func (le *Lessor) Leases() []int64 {
	type entry struct{ id, expiry int64 }
	le.mu.RLock()
	all := make([]entry, 0, len(le.leases))
	for id, l := range le.leases {
		all = append(all, entry{id, l.expiry})
	}
	le.mu.RUnlock()
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.expiry, b.expiry), cmp.Compare(a.id, b.id))
	})
	ids := make([]int64, len(all))
	for i, e := range all {
		ids[i] = e.id
	}
	return ids
}
