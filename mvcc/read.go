package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// fromKey as the end of a range means that there is no end.
var fromKey = []byte{0}

// Range returns the keys in [key, end). An empty end means the one key; end "\x00" means all keys from key on. The
// errors are ErrFutureRevision, ErrCompacted, that of ctx, or what the disk said.
func (v *View) Range(ctx context.Context, key, end []byte, o RangeOptions) (RangeResult, error) {
	rangesTotal.Inc()
	rev, err := revisionToRead(o.Rev, v.revision, v.compact)
	if err != nil {
		return RangeResult{}, err
	}
	rd := reader{db: v.db}
	if rev == v.revision {
		res, err := rd.current(ctx, v.tree, key, end, o)
		if n := max(len(res.KVs), len(res.Raw)); err == nil && n >= minPage && res.Count > int64(n) {
			v.db.trees.remember(v.revision, v.tree) // the next page will be asked for at this revision
		}
		return res, err
	}
	t, ok := v.db.trees.lookup(rev, v.tree)
	if !ok {
		if t, ok, err = v.rebuild(ctx, rev, v.affordable(key, end)); err != nil {
			return RangeResult{}, err
		}
		if ok {
			v.db.trees.remember(rev, t)
		}
	}
	if ok {
		return rd.current(ctx, t, key, end, o)
	}
	return rd.historical(ctx, key, end, rev, o)
}

// revisionToRead checks the revision that a reader asks for, as etcd does.
func revisionToRead(rev, current, compact int64) (int64, error) {
	switch {
	case rev > current:
		return 0, ErrFutureRevision
	case rev <= 0:
		return current, nil
	case rev < compact:
		return 0, ErrCompacted
	}
	return rev, nil
}

// reader fetches messages. What it returns lies in memory of its own.
type reader struct {
	db      *DB
	pending func(Rev) []byte // messages that are not in the engine yet; nil: there are none
	buf     []byte
	arena   []byte
}

// current answers from an index of the keys at the revision to read.
func (r *reader) current(ctx context.Context, t tree, key, end []byte, o RangeOptions) (res RangeResult, err error) {
	if len(end) == 0 {
		m, ok := t.get(key)
		if !ok {
			return res, nil
		}
		res.Count = 1
		if o.CountOnly {
			return res, nil
		}
		if o.KeysOnly {
			kv := new(mvccpb.KeyValue)
			fillKey(kv, bytes.Clone(key), m)
			res.KVs = []*mvccpb.KeyValue{kv}
			return res, nil
		}
		raw, err := r.get(key, m.Mod)
		if err == nil {
			err = res.add(raw, o)
		}
		if err != nil {
			return RangeResult{}, r.db.readError(m.Mod, err)
		}
		return res, nil
	}
	if bytes.Equal(end, fromKey) {
		end = nil
		res.Count = int64(t.len() - t.rank(key))
	} else {
		res.Count = int64(max(t.rank(end)-t.rank(key), 0))
	}
	n := res.Count
	if o.Limit > 0 {
		n = min(n, o.Limit)
	}
	if o.CountOnly || n == 0 {
		return res, nil
	}
	c := t.seek(key, end)
	if o.KeysOnly {
		kvs := make([]mvccpb.KeyValue, n)
		res.KVs = make([]*mvccpb.KeyValue, 0, n)
		for i := range kvs {
			fillKey(&kvs[i], r.keep(c.key()), c.meta())
			res.KVs = append(res.KVs, &kvs[i])
			c.next()
		}
		return res, nil
	}
	w := walker{reader: r, o: keyBounds(key, end)}
	defer func() { err = errors.Join(err, w.close()) }()
	res.Raw = make([][]byte, 0, n)
	if !o.RawOnly {
		res.KVs = make([]*mvccpb.KeyValue, 0, n)
	}
	for i := range n {
		if i&63 == 0 && ctx.Err() != nil {
			return RangeResult{}, ctx.Err()
		}
		m := c.meta()
		raw, err := w.fetch(c.key(), m.Mod)
		if err == nil {
			err = res.add(raw, o)
		}
		if err != nil {
			return RangeResult{}, r.db.readError(m.Mod, err)
		}
		c.next()
	}
	return res, nil
}

// add appends a message.
func (r *RangeResult) add(raw []byte, o RangeOptions) error {
	if !o.RawOnly {
		kv := new(mvccpb.KeyValue)
		if err := decodeMessage(raw, kv); err != nil {
			return err
		}
		r.KVs = append(r.KVs, kv)
	}
	r.Raw = append(r.Raw, raw)
	return nil
}

func fillKey(kv *mvccpb.KeyValue, key []byte, m Meta) {
	kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease = key, m.Create, m.Mod.Main, m.Version, m.Lease
}

// keep copies b into the reader's memory.
func (r *reader) keep(b []byte) []byte {
	kept := r.room(len(b))
	copy(kept, b)
	return kept
}

// room returns so many bytes of the reader's memory.
func (r *reader) room(bytes int) []byte {
	if bytes > cap(r.arena)-len(r.arena) {
		r.arena = make([]byte, 0, max(bytes, min(2*cap(r.arena), 256<<10), 4<<10))
	}
	n := len(r.arena)
	r.arena = r.arena[:n+bytes]
	return r.arena[n : n+bytes : n+bytes]
}

// get returns the message of a version that exists.
func (r *reader) get(key []byte, rev Rev) ([]byte, error) {
	if r.pending != nil {
		if raw := r.pending(rev); raw != nil {
			return raw, nil
		}
	}
	raw, cached, err := r.db.message(key, rev)
	if err == nil && !cached {
		r.db.messages.add(rev, raw)
	}
	return raw, err
}

// message returns a copy of the message of a version that exists, and whether it came out of the cache.
func (db *DB) message(key []byte, rev Rev) (raw []byte, cached bool, err error) {
	if raw, ok := db.messages.get(rev, newBytes); ok {
		messageCacheHits.Inc()
		return raw, true, nil
	}
	messageCacheMisses.Inc()
	buf := keyBuffers.Get().(*[]byte)
	defer keyBuffers.Put(buf)
	*buf = appendVersionKey((*buf)[:0], key, rev)
	v, closer, err := db.pebble.Get(*buf)
	if err != nil {
		return nil, false, err
	}
	raw = bytes.Clone(v)
	return raw, false, closer.Close()
}

func newBytes(n int) []byte { return make([]byte, n) }

var keyBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 256)
	return &b
}}

// readError says which change could not be read.
func (db *DB) readError(rev Rev, err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("mvcc: the store in %s has lost change %d of revision %d; restore the member from its peers or a snapshot",
			db.dir, rev.Sub, rev.Main)
	}
	return fmt.Errorf("mvcc: read change %d of revision %d: %w", rev.Sub, rev.Main, err)
}

// walker fetches messages of versions of ascending keys.
type walker struct {
	*reader
	it *pebble.Iterator // opened by the first version that is in the engine
	o  pebble.IterOptions
}

// keyBounds returns the bounds of all versions of the keys in [key, end); an empty end is no bound.
func keyBounds(key, end []byte) pebble.IterOptions {
	o := pebble.IterOptions{LowerBound: appendKeyPrefix(nil, key)}
	if len(end) > 0 {
		o.UpperBound = appendKeyPrefix(nil, end)
	} else {
		o.UpperBound = []byte{spaceKeys + 1, 0}
	}
	return o
}

func (w *walker) close() error {
	if w.it == nil {
		return nil
	}
	return w.it.Close()
}

func (w *walker) fetch(key []byte, rev Rev) ([]byte, error) {
	if w.pending != nil {
		if raw := w.pending(rev); raw != nil {
			return raw, nil
		}
	}
	// What a page reads does not go into the cache: a long list would leave nothing else in it.
	if raw, ok := w.db.messages.get(rev, w.room); ok {
		messageCacheHits.Inc()
		return raw, nil
	}
	messageCacheMisses.Inc()
	w.buf = appendVersionKey(w.buf[:0], key, rev)
	if err := w.position(); err != nil {
		return nil, err
	}
	v, err := w.it.ValueAndErr()
	if err != nil {
		return nil, err
	}
	return w.keep(v), nil
}

// position moves the iterator to the key in buf: usually it is the newest version of the next key, or one of the few
// that were made or deleted since.
func (w *walker) position() (err error) {
	if w.it == nil {
		if w.it, err = w.db.pebble.NewIter(&w.o); err != nil {
			return err
		}
	} else if w.it.Valid() {
		for i, valid := 0, w.it.NextPrefix(); i < 3 && valid; i++ {
			c := compareKeys(w.it.Key(), w.buf)
			if c == 0 {
				return nil
			}
			if c > 0 {
				break
			}
			valid = w.it.Next()
		}
	}
	switch {
	case w.it.SeekGE(w.buf) && bytes.Equal(w.it.Key(), w.buf):
		return nil
	case w.it.Error() != nil:
		return w.it.Error()
	}
	return pebble.ErrNotFound
}

// historical answers from the engine alone: it looks at every key of the range, whatever the limit.
func (r *reader) historical(ctx context.Context, key, end []byte, rev int64, o RangeOptions) (res RangeResult, err error) {
	single := len(end) == 0
	switch {
	case single:
		end = append(bytes.Clone(key), 0)
	case bytes.Equal(end, fromKey):
		end = nil
	}
	if len(end) > 0 && bytes.Compare(key, end) >= 0 {
		return res, nil
	}
	bounds := keyBounds(key, end)
	it, err := r.db.pebble.NewIter(&bounds)
	if err != nil {
		return res, fmt.Errorf("mvcc: read revision %d: %w", rev, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for i, valid := 0, it.First(); valid; i++ {
		if i&255 == 0 && ctx.Err() != nil {
			return RangeResult{}, ctx.Err()
		}
		k, at, err := decodeVersionKey(it.Key())
		if err != nil {
			return RangeResult{}, err
		}
		if at.Main > rev {
			// The versions after it are older.
			if i&15 < 15 {
				valid = it.Next()
			} else {
				r.buf = appendVersionKey(r.buf[:0], k, Rev{rev, maxSub})
				valid = it.SeekGE(r.buf)
			}
			continue
		}
		lazy := it.LazyValue()
		if lazy.Len() > 0 {
			res.Count++
			if !o.CountOnly && (o.Limit <= 0 || res.Count <= o.Limit) {
				v, err := it.ValueAndErr()
				if err != nil {
					return RangeResult{}, r.db.readError(at, err)
				}
				if o.KeysOnly {
					err = r.addKey(&res, v)
				} else {
					err = res.add(r.keep(v), o)
				}
				if err != nil {
					return RangeResult{}, r.db.readError(at, err)
				}
			}
		}
		valid = it.NextPrefix()
	}
	if err := it.Error(); err != nil {
		return RangeResult{}, fmt.Errorf("mvcc: read revision %d: %w", rev, err)
	}
	return res, nil
}

// addKey appends a message without its value.
func (r *reader) addKey(res *RangeResult, raw []byte) error {
	kv := new(mvccpb.KeyValue)
	if err := decodeMessage(raw, kv); err != nil {
		return err
	}
	kv.Key, kv.Value = r.keep(kv.Key), nil
	res.KVs = append(res.KVs, kv)
	return nil
}
