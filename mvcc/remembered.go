package mvcc

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// remembered holds the trees of revisions at which clients go through a long range page by page, so that the next page
// costs what the first did. Without the tree a page is still answered, by a walk over the range.
type remembered struct {
	mu    sync.Mutex
	trees []rememberedTree // the least recently used first
}

type rememberedTree struct {
	revision int64
	tree     tree
	used     time.Time
}

const (
	minPage           = 16 // a limit below is for a look at the first keys, not for a page
	maxRemembered     = 64
	maxIdle           = 5 * time.Minute
	maxRetained       = 64 << 20 // bytes of replaced nodes that remembered trees may keep alive
	maxRetainedPerKey = 16       // or so many for each key, a quarter of what the index takes, if that is more
)

// remember keeps the tree of a revision for a while.
func (r *remembered) remember(revision int64, t tree) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.use(revision); !ok {
		r.trees = append(r.trees, rememberedTree{revision, t, time.Now()})
	}
	r.trim(t)
}

// lookup returns the tree of a revision if it is remembered. The current tree is given to judge what can be afforded.
func (r *remembered) lookup(revision int64, current tree) (tree, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trim(current)
	return r.use(revision)
}

func (r *remembered) use(revision int64) (tree, bool) {
	for i, t := range r.trees {
		if t.revision == revision {
			t.used = time.Now()
			r.trees = append(append(r.trees[:i], r.trees[i+1:]...), t)
			return t.tree, true
		}
	}
	return tree{}, false
}

// trim forgets trees that were not used for long, are too many, or keep too much memory alive. What two trees do not
// share is at most what was copied between them.
func (r *remembered) trim(current tree) {
	budget := max(maxRetained, int64(current.len())*maxRetainedPerKey)
	kept := r.trees[:0]
	for i, t := range r.trees {
		if len(r.trees)-i <= maxRemembered && time.Since(t.used) <= maxIdle && current.copied-t.tree.copied <= budget {
			kept = append(kept, t)
		}
	}
	clear(r.trees[len(kept):])
	r.trees = kept
}

// rebuildCost is how many keys a walk over a range passes in the time in which one change is undone, or more.
const rebuildCost = 30

// affordable returns how many changes may be undone to rebuild the index at an older revision, so that it is done
// sooner than walking through the range. A client that pages through a long range at a revision of which this member
// has no index, because it has restarted or another member answered the first page, comes back for the next page.
func (v *View) affordable(key, end []byte) int {
	if len(end) == 0 {
		return 0
	}
	n := v.tree.len() - v.tree.rank(key)
	if !bytes.Equal(end, fromKey) {
		n -= v.tree.len() - v.tree.rank(end)
	}
	return n / rebuildCost
}

// rebuild returns the index at a revision that the view may read, if not more than so many changes have to be undone.
func (v *View) rebuild(ctx context.Context, rev int64, changes int) (t tree, ok bool, err error) {
	if v.revision-rev > int64(changes) {
		return tree{}, false, nil
	}
	it, err := v.db.changesFrom(Rev{Main: rev + 1}, v.revision)
	if err != nil {
		return tree{}, false, err
	}
	defer it.close()
	t = v.tree.edit()
	undone := map[string]bool{}
	for n := 1; it.next(); n++ {
		if n > changes {
			return tree{}, false, nil
		}
		if err := ctx.Err(); err != nil {
			return tree{}, false, err
		}
		c := &it.change
		if undone[string(c.key)] {
			continue // the first change tells what the key was before
		}
		undone[string(c.key)] = true
		if c.prev == (Rev{}) {
			t.delete(c.key)
			continue
		}
		var kv mvccpb.KeyValue
		raw, _, err := v.db.message(c.key, c.prev)
		if err == nil {
			err = decodeMessage(raw, &kv)
		}
		if err != nil {
			return tree{}, false, v.db.readError(c.prev, err)
		}
		t.set(c.key, Meta{Create: kv.CreateRevision, Mod: c.prev, Version: kv.Version, Lease: kv.Lease})
	}
	if it.err != nil {
		return tree{}, false, fmt.Errorf("mvcc: rebuild the index at revision %d: %w", rev, it.err)
	}
	// What the rebuilt nodes take is kept alive besides what the view's tree would.
	t.copied = 2*v.tree.copied - t.copied
	return t, true, nil
}
