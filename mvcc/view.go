package mvcc

import (
	"sync"
	"sync/atomic"
)

// View is a consistent state of the store. It may be used by several goroutines and must be closed once; holding it keeps
// versions that a later compaction makes superfluous on the disk, so it is not for keeping.
type View struct {
	db       *DB
	tree     tree
	revision int64
	compact  int64
	index    uint64 // applied
	term     uint64

	refs atomic.Int64
}

// View returns the state after the last commit. It costs two atomic operations.
func (db *DB) View() *View {
	for {
		v := db.view.Load()
		v.refs.Add(1)
		// If v is still the current view, whoever replaces it sees the reference.
		if db.view.Load() == v {
			return v
		}
		v.Close()
	}
}

// Close releases the view.
func (v *View) Close() {
	if v.refs.Add(-1) == 0 && v.db.view.Load() != v {
		v.db.pinned.released()
	}
}

// Revision returns the revision of the last transaction that wrote; 1 in a new store.
func (v *View) Revision() int64 { return v.revision }

// CompactRevision returns the revision of the last compaction, -1 if there was none. Older revisions cannot be read.
func (v *View) CompactRevision() int64 { return v.compact }

// Applied returns the index and term of the last Raft entry whose effects the view has.
func (v *View) Applied() (index, term uint64) { return v.index, v.term }

// Get returns what is known about a key at the view's revision, without reading its value.
func (v *View) Get(key []byte) (Meta, bool) { return v.tree.get(key) }

// Leased calls fn for every key that is attached to a lease at the view's revision, in the order of keys. The key is
// valid only during the call.
func (v *View) Leased(fn func(key []byte, lease int64)) {
	for c := v.tree.seek(nil, nil); c.valid(); c.next() {
		if m := c.meta(); m.Lease != 0 {
			fn(c.key(), m.Lease)
		}
	}
}

// publish makes v the current view.
func (db *DB) publish(v *View) {
	old := db.view.Swap(v)
	if old.refs.Load() > 0 {
		db.pinned.add(old)
	}
}

// pins are the views that were in use when they were replaced. Before the versions that a compaction makes superfluous
// are removed, all views from before it must have been closed.
type pins struct {
	mu      sync.Mutex
	views   []*View
	signal  chan struct{} // closed when a view is; made by the first to wait
	waiting atomic.Bool   // someone waits: so that closing a view needs no lock otherwise
}

func (p *pins) add(v *View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.views = append(p.dropClosed(), v)
}

func (p *pins) dropClosed() []*View {
	kept := p.views[:0]
	for _, v := range p.views {
		if v.refs.Load() > 0 {
			kept = append(kept, v)
		}
	}
	clear(p.views[len(kept):])
	p.views = kept
	return kept
}

func (p *pins) released() {
	if !p.waiting.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal != nil {
		close(p.signal)
		p.signal = nil
	}
	p.waiting.Store(false)
}

// olderThan returns nil if no view from before the compaction to rev is in use, else a channel that is closed when
// it is worth asking again.
func (p *pins) olderThan(rev int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting.Store(true)
	for _, v := range p.dropClosed() {
		if v.compact < rev {
			if p.signal == nil {
				p.signal = make(chan struct{})
			}
			return p.signal
		}
	}
	p.waiting.Store(p.signal != nil)
	return nil
}
