package mvcc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestViewsReadAllTheirHistoryWhileEverythingIsCompacted has readers look at every revision that their view may read
// while a writer compacts behind each of its batches.
func TestViewsReadAllTheirHistoryWhileEverythingIsCompacted(t *testing.T) {
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "db", MemTableBytes: 64 << 10})
	require.NoError(t, err)
	const keys = 20
	put := func(b *Batch) {
		tx := b.Txn()
		for k := range keys {
			tx.Put(fmt.Appendf(nil, "k%02d", k), fmt.Append(nil, tx.Revision()+1), 0)
		}
		tx.End()
	}
	b := db.Begin()
	put(b)
	_, err = b.Commit(1, 1)
	require.NoError(t, err)

	var stop atomic.Bool
	var wg sync.WaitGroup
	var reads atomic.Int64
	read := func(v *View, rnd *rand.Rand) bool {
		rev := max(v.CompactRevision(), 2)
		rev += rnd.Int64N(v.Revision() - rev + 1)
		o := RangeOptions{Rev: rev}
		if rnd.IntN(2) == 0 {
			o.Limit = 1 + rnd.Int64N(keys)
		}
		res, err := v.Range(context.Background(), []byte("k"), []byte("l"), o)
		if !assert.NoError(t, err) || !assert.EqualValues(t, keys, res.Count) {
			return false
		}
		for _, kv := range res.KVs {
			if !assert.Equal(t, fmt.Sprint(rev), string(kv.Value)) {
				return false
			}
		}
		events, _, err := v.Events(context.Background(), rev, v.Revision(), EventsOptions{})
		if !assert.NoError(t, err) || !assert.Len(t, events, int(v.Revision()-rev)+1) {
			return false
		}
		for _, e := range events {
			for i := range e.Events {
				prev, err := v.PrevKV(&e.Events[i])
				if !assert.NoError(t, err) {
					return false
				}
				if e.Revision-1 >= max(v.CompactRevision(), 2) && !assert.Equal(t, fmt.Sprint(e.Revision-1), string(prev.GetValue())) {
					return false
				}
			}
		}
		reads.Add(1)
		return true
	}
	for r := range uint64(3) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(r, 5))
			for !stop.Load() {
				v := db.View()
				for range 1 + rnd.IntN(4) {
					if !read(v, rnd) {
						stop.Store(true)
						break
					}
				}
				v.Close()
			}
		})
	}
	batches := 400
	for i := 2; i < batches && !stop.Load(); i++ {
		b := db.Begin()
		put(b)
		if i%3 == 0 {
			require.NoError(t, b.Compact(b.Revision()-int64(i%2)))
		}
		_, err := b.Commit(uint64(i), 1)
		require.NoError(t, err)
	}
	stop.Store(true)
	wg.Wait()
	require.Positive(t, reads.Load())
	v := db.View()
	v.Close()
	require.NoError(t, db.WaitCompacted(context.Background(), v.CompactRevision()))
	require.NoError(t, db.Close())
}

func TestRemovalWaitsForViewsFromBeforeTheCompaction(t *testing.T) {
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "db"})
	require.NoError(t, err)
	commit := func(index uint64, f func(*Batch)) {
		b := db.Begin()
		f(b)
		_, err := b.Commit(index, 1)
		require.NoError(t, err)
	}
	put := func(b *Batch) {
		tx := b.Txn()
		tx.Put([]byte("k"), []byte("v"), 0)
		tx.End()
	}
	commit(1, put)
	before := db.View()
	commit(2, put)
	commit(3, func(b *Batch) { require.NoError(t, b.Compact(3)) })
	after := db.View()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, db.WaitCompacted(ctx, 3), context.DeadlineExceeded)
	res, err := before.Range(context.Background(), []byte("k"), nil, RangeOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, res.KVs[0].ModRevision)
	before.Close()
	// Views from after the compaction do not hold it up.
	require.NoError(t, db.WaitCompacted(context.Background(), 3))
	after.Close()
	require.NoError(t, db.Close())
	require.ErrorIs(t, db.WaitCompacted(context.Background(), 4), ErrClosed)
}

func TestARemovalThatIsInterruptedGoesOnAfterARestart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{FS: fs, Dir: "db", MemTableBytes: 128 << 10}
	db, err := Open(o)
	require.NoError(t, err)
	const revisions = 5 * removalStep
	for i := uint64(1); i <= revisions/100; i++ {
		b := db.Begin()
		for range 100 {
			tx := b.Txn()
			tx.Put([]byte("k"), []byte("v"), 0)
			tx.End()
		}
		_, err := b.Commit(i, 1)
		require.NoError(t, err)
	}
	b := db.Begin()
	require.NoError(t, b.Compact(revisions))
	_, err = b.Commit(revisions, 1)
	require.NoError(t, err)
	require.NoError(t, db.Flush())
	interrupted := 0
	for {
		o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
		crashed, err := Open(o)
		require.NoError(t, err)
		if crashed.remover.finished.Load() < revisions {
			interrupted++
		}
		require.NoError(t, crashed.WaitCompacted(context.Background(), revisions))
		n, err := countVersions(crashed)
		require.NoError(t, err)
		require.Equal(t, 2, n) // at the compact revision, and the newest
		require.NoError(t, crashed.Close())
		if db.remover.finished.Load() == revisions {
			break
		}
		require.NoError(t, db.Flush())
	}
	require.Positive(t, interrupted)
	require.NoError(t, db.Close())
}

func countVersions(db *DB) (n int, err error) {
	it, err := db.changesFrom(Rev{}, db.view.Load().revision)
	if err != nil {
		return 0, err
	}
	for it.next() {
		n++
	}
	if it.err != nil {
		return 0, it.err
	}
	return n, it.close()
}

func TestTreesAreRememberedForPagesAndForgottenWhenTheyCostTooMuch(t *testing.T) {
	var r remembered
	t1 := tree{}.edit()
	t1.set([]byte("k"), Meta{Create: 1, Mod: Rev{Main: 1}, Version: 1})
	r.remember(1, t1)
	for rev := int64(2); rev <= maxRemembered+1; rev++ {
		r.remember(rev, t1)
	}
	_, ok := r.lookup(1, t1)
	require.False(t, ok, "one too many")
	_, ok = r.lookup(2, t1)
	require.True(t, ok)

	later := t1
	later.copied += maxRetained + 1
	_, ok = r.lookup(2, later)
	require.False(t, ok, "too much has changed since")

	r.remember(3, t1)
	r.trees[len(r.trees)-1].used = time.Now().Add(-maxIdle - time.Second)
	_, ok = r.lookup(3, t1)
	require.False(t, ok, "idle for too long")
}

func TestALongRangeAtAnOlderRevisionIsAnsweredFromARebuiltIndex(t *testing.T) {
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "db"})
	require.NoError(t, err)
	const keys = 2000
	put := func(index uint64, from, to int) {
		b := db.Begin()
		for i := from; i < to; i++ {
			tx := b.Txn()
			tx.Put(fmt.Appendf(nil, "%05d", i), fmt.Append(nil, index), 0)
			tx.End()
		}
		_, err := b.Commit(index, 1)
		require.NoError(t, err)
	}
	put(1, 0, keys)
	put(2, keys-5, keys+5)
	v := db.View()
	const rev = keys + 1
	o := RangeOptions{Rev: rev, Limit: 10}
	page := func(from int) RangeResult {
		res, err := v.Range(context.Background(), fmt.Appendf(nil, "%05d", from), []byte{0}, o)
		require.NoError(t, err)
		require.EqualValues(t, keys-from, res.Count)
		return res
	}
	page(keys - 20)
	_, ok := db.trees.lookup(rev, v.tree)
	require.False(t, ok, "a short range is walked through")
	page(0)
	_, ok = db.trees.lookup(rev, v.tree)
	require.True(t, ok)
	for _, kv := range page(keys - 8).KVs {
		require.Equal(t, "1", string(kv.Value))
	}
	v.Close()
	require.NoError(t, db.Close())
}
