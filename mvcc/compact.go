package mvcc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// remover removes, in the background, what compactions have made superfluous. Compactions are worked off in their order.
// A change says which version it replaced, so only the changes since the last compaction are looked at, not what was
// kept. After a crash the removal starts again at that compaction: removing twice does no harm.
type remover struct {
	mu       sync.Mutex
	due      []int64       // revisions of compactions that were committed and are not finished
	progress chan struct{} // closed and replaced when due or finished has changed
	finished atomic.Int64  // revision of the last compaction whose removal has ended
	err      error         // why the removal has stopped
	stopped  chan struct{}
}

// removalStep is how many changes one step of the removal looks at.
const removalStep = 1000

func (db *DB) startRemover() {
	r := &db.remover
	r.progress, r.stopped = make(chan struct{}), make(chan struct{})
	v := db.view.Load()
	resumed := v.compact != r.finished.Load()
	if resumed {
		r.due = []int64{v.compact}
	}
	go func() {
		defer close(r.stopped)
		db.removeDue(resumed)
	}()
}

// schedule hands compactions that were committed and published to the remover.
func (r *remover) schedule(revs []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = append(r.due, revs...)
	r.changed()
}

func (r *remover) changed() {
	close(r.progress)
	r.progress = make(chan struct{})
}

// next returns the compaction to work on, or what to wait for.
func (r *remover) next() (rev int64, wait <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.due) > 0 {
		return r.due[0], nil
	}
	return 0, r.progress
}

// finish notes the end of a removal, or the error that ended it.
func (r *remover) finish(rev int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil {
		r.finished.Store(rev)
		r.due = r.due[1:]
	}
	r.changed()
}

func (r *remover) wait() { <-r.stopped }

// removeDue works off compactions until the store is closed. The first may be one that was interrupted by a restart.
func (db *DB) removeDue(resumed bool) {
	r := &db.remover
	for {
		rev, wait := r.next()
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-db.closing:
				return
			}
		}
		if resumed {
			db.log.Info("resume scheduled compaction", zap.Int64("scheduled-compact-revision", rev))
		}
		err := db.removeCompacted(rev, resumed)
		select {
		case <-db.closing:
			return
		default:
		}
		if err != nil {
			db.log.Error("removal of compacted versions failed; it will start again when the member does",
				zap.Int64("compact-revision", rev), zap.Error(err))
		}
		r.finish(rev, err)
		if err != nil {
			return
		}
		resumed = false
	}
}

// removeCompacted removes the versions that the compaction to rev made superfluous, after the last view that may read
// them was closed.
func (db *DB) removeCompacted(rev int64, resumed bool) error {
	for wait := db.pinned.olderThan(rev); wait != nil; wait = db.pinned.olderThan(rev) {
		select {
		case <-wait:
		case <-db.closing:
			return ErrClosed
		}
	}
	start := time.Now()
	prev := db.remover.finished.Load()
	log := db.log.With(zap.Int64("compact-revision", rev))
	if !resumed {
		// What existed up to rev before the removal is hashed: after it, nobody can.
		hash, err := db.hashHistory(context.Background(), history{compact: prev, finished: prev, revision: rev, compacting: true, pace: db.pause})
		if err != nil {
			return err
		}
		db.hashes.remember(KeyValueHash{Hash: hash, CompactRevision: prev, Revision: rev})
		log = log.With(zap.Uint32("hash", hash))
	}
	removed := 0
	for from := (Rev{Main: max(prev, 0)}); ; {
		step := time.Now()
		n, next, err := db.removeStep(from, prev, rev)
		if err != nil {
			return err
		}
		removed += n
		took := time.Since(step)
		removalPauseMs.Observe(float64(took.Milliseconds()))
		removedTotal.Add(float64(n))
		if next.Main > rev {
			break
		}
		from = next
		if err := db.pause(took); err != nil {
			return err
		}
	}
	took := time.Since(start)
	removalTotalMs.Observe(float64(took.Milliseconds()))
	removalLast.SetToCurrentTime()
	total, inUse := db.Size()
	log.Info("finished scheduled compaction", zap.Duration("took", took), zap.Int("number-of-keys-compacted", removed),
		zap.Int64("current-db-size-bytes", total), zap.Int64("current-db-size-in-use-bytes", inUse))
	return nil
}

// pause leaves the machine to others for as long as the work before it took.
func (db *DB) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-db.closing:
		return ErrClosed
	}
}

// removeStep removes what the changes from from on have replaced, and returns how many versions it removed and the
// change to go on with: of a revision above rev if the removal has ended, which it has recorded then.
func (db *DB) removeStep(from Rev, prev, rev int64) (removed int, next Rev, err error) {
	it, err := db.changesFrom(from, rev)
	if err != nil {
		return 0, Rev{}, err
	}
	defer it.close()
	b := db.pebble.NewBatch()
	defer b.Close()
	var buf []byte
	drop := func(key []byte, r Rev) error {
		removed++
		buf = appendVersionKey(buf[:0], key, r)
		if err := b.Delete(buf, nil); err != nil {
			return err
		}
		buf = appendRevisionKey(buf[:0], r)
		return b.Delete(buf, nil)
	}
	for n := 0; n < removalStep; n++ {
		if !it.next() {
			if it.err != nil {
				return 0, Rev{}, it.err
			}
			if err := b.Set(appendMetaKey(nil, bucketStore, keyFinished), encodeRevision(rev), nil); err != nil {
				return 0, Rev{}, err
			}
			next = Rev{Main: rev + 1}
			break
		}
		c := &it.change
		if c.prev != (Rev{}) && it.rev.Main > prev {
			if err := drop(c.key, c.prev); err != nil {
				return 0, Rev{}, err
			}
		}
		// The deletion at rev itself stays for watches that start there.
		if c.tombstone && it.rev.Main < rev {
			if err := drop(c.key, it.rev); err != nil {
				return 0, Rev{}, err
			}
		}
		next = Rev{it.rev.Main, it.rev.Sub + 1}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return 0, Rev{}, fmt.Errorf("mvcc: remove compacted versions: %w", err)
	}
	return removed, next, nil
}

// WaitCompacted returns when all versions that the compaction to rev made superfluous have been removed. The error is
// that of ctx, ErrClosed, or what stopped the removal.
func (db *DB) WaitCompacted(ctx context.Context, rev int64) error {
	r := &db.remover
	for {
		r.mu.Lock()
		err, progress := r.err, r.progress
		r.mu.Unlock()
		switch {
		case r.finished.Load() >= rev:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.closing:
			return ErrClosed
		}
	}
}

// Reclaim returns when the space of removed versions has been given back to the file system, or ctx ends.
func (db *DB) Reclaim(ctx context.Context) error {
	if err := db.Flush(); err != nil {
		return err
	}
	if err := db.pebble.Compact(ctx, []byte{0}, []byte{spaceEnd, 0}, true); err != nil {
		return fmt.Errorf("mvcc: reclaim space in %s: %w", db.dir, err)
	}
	// Replaced files are unlinked in the background; those that a reader has open, when it is done.
	for db.pebble.Metrics().Table.ObsoleteCount > 0 {
		t := time.NewTimer(5 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-db.closing:
			t.Stop()
			return ErrClosed
		}
	}
	return nil
}
