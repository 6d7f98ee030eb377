package mvcc

import (
	"sync"
	"time"
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
