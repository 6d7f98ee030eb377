package mvcc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const maxSub = math.MaxInt32

// Batch collects what the entries of one apply batch change. There is one at a time, used by one goroutine. Nothing of it
// is visible to views before Commit.
type Batch struct {
	db      *DB
	base    *View
	first   int64 // revision before the first transaction
	tree    tree
	compact int64
	due     []int64  // compactions of this batch
	events  []Events // of the transactions that have ended, consecutive revisions
	meta    []metaChange
	txn     *Txn
}

type metaChange struct {
	key    []byte // engine key
	value  []byte
	delete bool
}

// Begin returns an empty batch on top of the last committed one.
func (db *DB) Begin() *Batch {
	if db.batch {
		panic("mvcc: a batch is not finished")
	}
	db.batch = true
	v := db.view.Load()
	return &Batch{db: db, base: v, first: v.revision, tree: v.tree.edit(), compact: v.compact}
}

// Discard drops the batch and all that was done in it.
func (b *Batch) Discard() { b.db.batch = false }

// Revision returns the revision that the transactions ended so far have reached.
func (b *Batch) Revision() int64 { return b.first + int64(len(b.events)) }

// Advance raises the current revision without a change: a restored store must not hand out revisions again that clients
// may have seen. It comes before the first transaction.
func (b *Batch) Advance(rev int64) {
	if len(b.events) > 0 || b.txn != nil || rev < b.first {
		panic(fmt.Sprintf("mvcc: cannot advance from revision %d to %d", b.Revision(), rev))
	}
	b.first = rev
}

// CompactRevision returns the compact revision, with compactions of this batch.
func (b *Batch) CompactRevision() int64 { return b.compact }

// SetMeta sets a record outside the history: leases, members and whatever else must change together with the
// applied index. The bucket is not empty and holds no zero byte. Key and value are copied.
func (b *Batch) SetMeta(bucket string, key, value []byte) {
	b.meta = append(b.meta, metaChange{key: metaKey(bucket, key), value: bytes.Clone(value)})
}

// DeleteMeta removes a record that SetMeta set.
func (b *Batch) DeleteMeta(bucket string, key []byte) {
	b.meta = append(b.meta, metaChange{key: metaKey(bucket, key), delete: true})
}

func metaKey(bucket string, key []byte) []byte {
	if bucket == "" || bucket == bucketStore || strings.IndexByte(bucket, 0) >= 0 {
		panic(fmt.Sprintf("mvcc: bucket %q is not for use", bucket))
	}
	return appendMetaKey(nil, bucket, key)
}

// Compact makes all versions superfluous that only revisions below rev need. They become unreadable when the batch is
// published and are removed in the background. The errors are ErrCompacted and ErrFutureRevision.
func (b *Batch) Compact(rev int64) error {
	if rev <= b.compact {
		return ErrCompacted
	}
	if rev > b.Revision() {
		return ErrFutureRevision
	}
	b.compact = rev
	b.due = append(b.due, rev)
	return nil
}

// Txn begins the next transaction. The one before must have ended.
func (b *Batch) Txn() *Txn {
	if b.txn != nil {
		panic("mvcc: a transaction has not ended")
	}
	b.txn = &Txn{b: b, base: b.Revision()}
	return b.txn
}

// Commit writes the batch together with the applied index and term, publishes it to views and returns its events,
// revision by revision. After an error, which names the directory, the store is unusable.
func (b *Batch) Commit(index, term uint64) ([]Events, error) {
	if b.txn != nil {
		panic("mvcc: a transaction has not ended")
	}
	db := b.db
	db.batch = false
	v := &View{db: db, tree: b.tree, revision: b.Revision(), compact: b.compact, index: index, term: term}
	p, err := b.encode(v)
	if err != nil {
		return nil, fmt.Errorf("mvcc: write to store in %s: %w", db.dir, err)
	}
	if err := p.Commit(pebble.NoSync); err != nil {
		return nil, fmt.Errorf("mvcc: write to store in %s: %w", db.dir, err)
	}
	db.cacheMessages(b.events)
	db.publish(v)
	db.countCommitted(b)
	if len(b.due) > 0 {
		db.remover.schedule(b.due)
	}
	return b.events, p.Close()
}

// keptReplaced is how many versions that were replaced stay in the cache: watches may want them next.
const keptReplaced = 1024

// cacheMessages puts the new messages into the cache, and takes those out that were replaced a while ago.
func (db *DB) cacheMessages(revisions []Events) {
	for _, evs := range revisions {
		for i := range evs.Events {
			e := &evs.Events[i]
			if e.Type == mvccpb.PUT {
				db.messages.add(Rev{evs.Revision, int32(i)}, e.Raw)
			}
			if e.replaced != (Rev{}) {
				db.replaced = append(db.replaced, e.replaced)
			}
		}
	}
	if n := len(db.replaced) - keptReplaced; n > keptReplaced {
		for _, rev := range db.replaced[:n] {
			db.messages.remove(rev)
		}
		db.replaced = slices.Delete(db.replaced, 0, n)
	}
}

// encode writes the batch as one of the engine.
func (b *Batch) encode(v *View) (*pebble.Batch, error) {
	size := 256
	for _, evs := range b.events {
		for i := range evs.Events {
			size += len(evs.Events[i].Raw) + 2*len(evs.Events[i].KV.Key) + 128
		}
	}
	for _, m := range b.meta {
		size += len(m.key) + len(m.value) + 16
	}
	p := b.db.pebble.NewBatchWithSize(size)
	var buf []byte
	for _, evs := range b.events {
		for i := range evs.Events {
			e := &evs.Events[i]
			rev := Rev{evs.Revision, int32(i)}
			c := change{key: e.KV.Key, prev: e.replaced, tombstone: e.Type == mvccpb.DELETE}
			var raw []byte
			if !c.tombstone {
				raw = e.Raw
				c.crc, c.length = crc32.Checksum(raw, castagnoli), len(raw)
			}
			op := p.SetDeferred(1+len(c.key)+1+suffixLen, len(raw))
			appendVersionKey(op.Key[:0], c.key, rev)
			copy(op.Value, raw)
			if err := op.Finish(); err != nil {
				return nil, err
			}
			buf = appendChange(buf[:0], &c, rev.Main)
			op = p.SetDeferred(1+revLen+1, len(buf))
			appendRevisionKey(op.Key[:0], rev)
			copy(op.Value, buf)
			if err := op.Finish(); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range b.meta {
		var err error
		if m.delete {
			err = p.Delete(m.key, nil)
		} else {
			err = p.Set(m.key, m.value, nil)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(b.due) > 0 {
		if err := p.Set(appendMetaKey(nil, bucketStore, keyScheduled), encodeRevision(b.compact), nil); err != nil {
			return nil, err
		}
	}
	a := applied{index: v.index, term: v.term, revision: v.revision}
	a.written = b.db.written.Add(uint64(p.Len()))
	return p, p.Set(appendMetaKey(nil, bucketStore, keyApplied), a.encode(), nil)
}

func encodeRevision(rev int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(rev))
}

// Txn is one request. It sees what the requests before it in the batch left, and its own changes. If it changes
// anything, all its changes share the revision Revision()+1.
type Txn struct {
	b      *Batch
	base   int64
	events []Event
	undo   []undo
}

type undo struct {
	key     []byte
	old     Meta
	existed bool
}

// Revision returns the revision before the transaction.
func (t *Txn) Revision() int64 { return t.base }

// Get returns what is known about a key, without reading its value.
func (t *Txn) Get(key []byte) (Meta, bool) { return t.b.tree.get(key) }

// Range is View.Range on the state that the transaction sees.
func (t *Txn) Range(ctx context.Context, key, end []byte, o RangeOptions) (RangeResult, error) {
	rangesTotal.Inc()
	current := t.base
	if len(t.events) > 0 {
		current++
	}
	rev, err := revisionToRead(o.Rev, current, t.b.compact)
	if err != nil {
		return RangeResult{}, err
	}
	rd := reader{db: t.b.db, pending: t.pending}
	switch {
	case rev == current:
		return rd.current(ctx, t.b.tree, key, end, o)
	case rev >= t.b.base.revision:
		return rd.current(ctx, t.b.treeAt(rev), key, end, o)
	}
	if tree, ok := t.b.db.trees.lookup(rev, t.b.tree); ok {
		return rd.current(ctx, tree, key, end, o)
	}
	return rd.historical(ctx, key, end, rev, o)
}

// pending returns the message of a change that the batch has not committed yet, nil if it is not one of these.
func (t *Txn) pending(rev Rev) []byte {
	i := rev.Main - t.b.first - 1
	switch {
	case i < 0:
		return nil
	case i < int64(len(t.b.events)):
		return t.b.events[i].Events[rev.Sub].Raw
	}
	return t.events[rev.Sub].Raw
}

// treeAt returns the index at a revision that the batch has reached before.
func (b *Batch) treeAt(rev int64) tree {
	t := b.base.tree.edit()
	for _, evs := range b.events[:max(rev-b.first, 0)] {
		for i := range evs.Events {
			e := &evs.Events[i]
			if e.Type == mvccpb.DELETE {
				t.delete(e.KV.Key)
			} else {
				t.set(e.KV.Key, e.meta(int32(i)))
			}
		}
	}
	return t
}

// meta returns what the index knows of the key after a put that is change sub of its revision.
func (e *Event) meta(sub int32) Meta {
	return Meta{
		Create: e.KV.CreateRevision, Mod: Rev{e.KV.ModRevision, sub}, Version: e.KV.Version, Lease: e.KV.Lease,
	}
}

// Put sets a key and attaches it to a lease (0: none). It returns what was known about the key before. Key and value
// are copied.
func (t *Txn) Put(key, value []byte, lease int64) (old Meta, existed bool) {
	m, old, existed := t.b.tree.put(key, t.next(), lease)
	raw := appendMessage(make([]byte, 0, messageLen(key, value)), key, value, m)
	kv := new(mvccpb.KeyValue)
	if err := decodeMessage(raw, kv); err != nil {
		panic(err) // it was encoded above
	}
	t.add(Event{Type: mvccpb.PUT, KV: kv, Raw: raw}, old, existed)
	return old, existed
}

// DeleteRange deletes the keys in [key, end), which are given as for View.Range, and returns them in their order.
func (t *Txn) DeleteRange(key, end []byte) []Deleted {
	var deleted []Deleted
	switch {
	case len(end) == 0:
		if m, ok := t.b.tree.get(key); ok {
			deleted = []Deleted{{bytes.Clone(key), m}}
		}
	default:
		if bytes.Equal(end, fromKey) {
			end = nil
		}
		for c := t.b.tree.seek(key, end); c.valid(); c.next() {
			deleted = append(deleted, Deleted{bytes.Clone(c.key()), c.meta()})
		}
	}
	for _, d := range deleted {
		t.b.tree.delete(d.Key)
		m := Meta{Mod: t.next()}
		kv := &mvccpb.KeyValue{Key: d.Key, ModRevision: m.Mod.Main}
		t.add(Event{Type: mvccpb.DELETE, KV: kv, Raw: appendMessage(nil, d.Key, nil, m)}, d.Meta, true)
	}
	return deleted
}

func (t *Txn) next() Rev { return Rev{t.base + 1, int32(len(t.events))} }

// add records a change of a key of which old was known.
func (t *Txn) add(e Event, old Meta, existed bool) {
	if existed {
		e.replaced = old.Mod
	}
	e.prev = prevOf(t.events, e.KV.Key, e.replaced, t.base+1)
	t.events = append(t.events, e)
	t.undo = append(t.undo, undo{e.KV.Key, old, existed})
}

// prevOf returns the version of a key before revision main, given the version that the latest change of this revision
// replaced and the changes before it. These count only if they changed the key as well.
func prevOf(before []Event, key []byte, replaced Rev, main int64) Rev {
	if replaced.Main == main {
		return before[replaced.Sub].prev
	}
	if replaced == (Rev{}) {
		for i := range before {
			if before[i].Type == mvccpb.DELETE && bytes.Equal(before[i].KV.Key, key) {
				return before[i].prev
			}
		}
	}
	return replaced
}

// End ends the transaction and returns the revision it leads to: Revision()+1 if it changed anything, else Revision().
func (t *Txn) End() int64 {
	t.b.txn = nil
	if len(t.events) == 0 {
		return t.base
	}
	t.b.events = append(t.b.events, Events{Revision: t.base + 1, Events: t.events})
	return t.base + 1
}

// Abort ends the transaction and undoes its changes.
func (t *Txn) Abort() {
	t.b.txn = nil
	for i := len(t.undo) - 1; i >= 0; i-- {
		if u := t.undo[i]; u.existed {
			t.b.tree.set(u.key, u.old)
		} else {
			t.b.tree.delete(u.key)
		}
	}
}
