package raftnode

import (
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/store"
)

// trimmer bounds the journal, and with it what a crash leaves to be replayed:
// from time to time it cuts what is not needed any more, and flushes the store
// if that has not flushed anything by itself.
type trimmer struct {
	n    *Node
	wake chan struct{}

	bytes   atomic.Int64  // of entries applied since the last trim
	trimmed atomic.Uint64 // the applied index at the last trim
	durable uint64        // the durable index after the last trim; the trim goroutine's own

	// anchoring is held from taking an anchor to writing it, and the cut that
	// rests on it: an older one must not come between, nor be the last.
	anchoring sync.Mutex
}

func newTrimmer(n *Node, applied uint64) *trimmer {
	t := &trimmer{n: n, wake: make(chan struct{}, 1), durable: applied}
	t.trimmed.Store(applied)
	return t
}

// applied tells of entries that have been applied since.
func (t *trimmer) applied(es []store.Entry) {
	var size int64
	for _, e := range es {
		size += int64(len(e.Raft.GetData()))
	}
	last := es[len(es)-1].Raft.GetIndex()
	if t.bytes.Add(size) >= t.n.o.FlushBytes || last >= t.trimmed.Load()+t.n.o.SnapshotCount {
		t.signal()
	}
}

func (t *trimmer) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *trimmer) run() {
	for {
		select {
		case <-t.wake:
		case <-t.n.ctx.Done():
			return
		}
		if err := t.trim(); err != nil && t.n.ctx.Err() == nil {
			t.n.fail(err)
			return
		}
	}
}

// trim cuts the journal, and flushes the store before if it has to: a store that
// has filled a memtable since the last trim has flushed what came before, and to
// be flushed again so soon would only give it small files to merge.
func (t *trimmer) trim() error {
	bytes := t.bytes.Load()
	t.trimmed.Store(t.n.applied.Load())
	db := t.n.o.Store.DB()
	durable, err := db.DurableApplied()
	if err == nil && durable <= t.durable {
		if err = db.Flush(); err == nil {
			durable, err = db.DurableApplied()
		}
	}
	if err != nil {
		return fmt.Errorf("flushing the store so that the journal can be cut: %w", err)
	}
	t.durable = durable
	t.bytes.Add(-bytes)
	applied, keep := t.n.applied.Load(), t.n.o.CatchUpEntries
	if alone(t.n.o.Store.ConfState()) {
		keep = 0 // nobody lags behind
	}
	if applied <= keep {
		return nil
	}
	return t.n.cut(applied - keep)
}

// alone reports whether a cluster has one member only.
func alone(cs *raftpb.ConfState) bool {
	return len(cs.GetVoters()) == 1 && len(cs.GetVotersOutgoing())+len(cs.GetLearners())+len(cs.GetLearnersNext()) == 0
}

// cut removes entries up to index from the journal, as far as the store has
// them durably and raft knows that they were applied: what it does not know to
// be applied it may still read. Before that an anchor goes into the journal:
// from then on a store that is older than this one is refused, as the journal
// could not make up for what it lacks.
func (n *Node) cut(index uint64) error {
	n.trimmer.anchoring.Lock()
	defer n.trimmer.anchoring.Unlock()
	durable, err := n.o.Store.DB().DurableApplied()
	if err != nil {
		return err
	}
	index = min(index, durable, n.raftApplied.Load())
	if index < n.o.Journal.FirstIndex() {
		return nil
	}
	a, err := n.anchor(durable)
	if err != nil {
		return err
	}
	if err := n.o.Journal.WriteAnchor(a); err != nil {
		return err
	}
	if err := n.o.Journal.Cut(index); err != nil {
		return err
	}
	n.lg.Debug("cut the journal", zap.Uint64("cut-index", index), zap.Uint64("durable-applied-index", durable))
	return nil
}

// anchor describes the store as it is now, in which the given index is durable.
func (n *Node) anchor(durable uint64) (journal.Anchor, error) {
	for {
		name := n.o.Store.DB().ManifestName()
		tail, err := n.o.FS.LogTail(n.o.FS.PathJoin(n.o.DBDir, name))
		if now := n.o.Store.DB().ManifestName(); now != name {
			continue // Pebble has begun another one
		}
		if err != nil {
			return journal.Anchor{}, fmt.Errorf("reading the end of the store's manifest: %w", err)
		}
		return journal.Anchor{
			Manifest: name, Tail: tail, DurableApplied: durable, KeyringGeneration: n.o.Keyring.Generation(),
		}, nil
	}
}
