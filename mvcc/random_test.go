package mvcc

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// long reports whether tests should run in their long form: COFFER_LONG=1.
func long() bool { return os.Getenv("COFFER_LONG") != "" }

// story drives a store and a model through the same random history and compares them.
type story struct {
	t     *testing.T
	rnd   *rand.Rand
	fs    *vfs.MemFS
	o     Options
	db    *DB
	m     *model
	past  map[uint64]*model // by applied index, since the store was last known to be durable
	views []heldView
}

// heldView is a view that is kept open while the history goes on, and what it must show.
type heldView struct {
	v *View
	m *model
}

func newStory(t *testing.T, seed uint64, o Options) *story {
	h := &story{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), fs: vfs.NewCrashableMem(), m: newModel()}
	h.o = o
	h.o.FS, h.o.Dir = h.fs, "db"
	h.past = map[uint64]*model{0: h.m.clone()}
	h.open()
	return h
}

func (h *story) open() {
	db, err := Open(h.o)
	require.NoError(h.t, err)
	h.db = db
}

var storyKeys = []string{"a", "a\x00", "a\x00b", "ab", "b", "b\xff", "b\xff\xff", "c/1", "c/2", "c/3", "d", "\x00", "\xff", "\xff\xff"}

func (h *story) key() []byte { return []byte(storyKeys[h.rnd.IntN(len(storyKeys))]) }

// span returns a random key or range.
func (h *story) span() (key, end []byte) {
	key = h.key()
	switch h.rnd.IntN(5) {
	case 0:
		return key, nil
	case 1:
		return key, []byte{0}
	case 2:
		return []byte{0}, []byte{0}
	}
	return key, h.key()
}

func (h *story) batch() {
	b := h.db.Begin()
	m := h.m.clone()
	var lines []string
	for range h.rnd.IntN(4) {
		switch h.rnd.IntN(12) {
		case 0:
			rev := m.revision - h.rnd.Int64N(6) + 1
			err := b.Compact(rev)
			switch {
			case rev <= m.compact:
				require.ErrorIs(h.t, err, ErrCompacted)
			case rev > m.revision:
				require.ErrorIs(h.t, err, ErrFutureRevision)
			default:
				require.NoError(h.t, err)
				m.compactTo(rev)
			}
		case 1:
			k := fmt.Sprint(h.rnd.IntN(4))
			if h.rnd.IntN(3) == 0 {
				b.DeleteMeta("test", []byte(k))
				delete(m.meta, k)
			} else {
				v := fmt.Sprint(h.rnd.IntN(100))
				b.SetMeta("test", []byte(k), []byte(v))
				m.meta[k] = v
			}
		default:
			after := h.txn(b, m)
			lines = append(lines, changedSince(m.revision, after)...)
			m = after
		}
		require.Equal(h.t, m.revision, b.Revision())
		require.Equal(h.t, m.compact, b.CompactRevision())
	}
	m.index++
	events, err := b.Commit(m.index, 1)
	require.NoError(h.t, err)
	require.Equal(h.t, lines, h.lines(events, nil))
	h.m = m
	h.past[m.index] = m.clone()
}

// changedSince returns the changes after a revision as text, without their predecessors.
func changedSince(rev int64, m *model) (lines []string) {
	for _, c := range m.changes {
		if c.rev.Main > rev {
			kv := proto.Clone(c.kv).(*mvccpb.KeyValue)
			kv.ModRevision = c.rev.Main
			lines = append(lines, eventLine(c.rev.Main, c.tombstone, kv, nil))
		}
	}
	return lines
}

// lines returns events as text, with their predecessors if there is a view to read them from.
func (h *story) lines(revisions []Events, v *View) (lines []string) {
	for _, r := range revisions {
		for i := range r.Events {
			e := &r.Events[i]
			var prev *mvccpb.KeyValue
			if v != nil {
				var err error
				prev, err = v.PrevKV(e)
				require.NoError(h.t, err)
			}
			var kv mvccpb.KeyValue
			require.NoError(h.t, proto.Unmarshal(e.Raw, &kv))
			require.True(h.t, proto.Equal(&kv, e.KV))
			lines = append(lines, eventLine(r.Revision, e.Type == mvccpb.DELETE, e.KV, prev))
		}
	}
	return lines
}

// txn runs a random transaction on the batch and returns what the model is after it.
func (h *story) txn(b *Batch, before *model) *model {
	m := before.clone()
	t := b.Txn()
	require.Equal(h.t, m.revision, t.Revision())
	sub := int32(0)
	wrote := map[string]bool{}
	for range 1 + h.rnd.IntN(4) {
		rev := Rev{before.revision + 1, sub}
		switch h.rnd.IntN(5) {
		case 0, 1:
			key := h.key()
			if wrote[string(key)] && h.rnd.IntN(4) > 0 {
				continue
			}
			wrote[string(key)] = true
			value, lease := make([]byte, h.rnd.IntN(40)), h.rnd.Int64N(3)
			for i := range value {
				value[i] = byte(h.rnd.IntN(256))
			}
			old, existed := t.Put(key, value, lease)
			h.requireMeta(m.get(key), old, existed)
			if len(value) == 0 {
				value = nil
			}
			m.put(rev, key, value, lease)
			sub++
		case 2:
			key, end := h.span()
			if h.rnd.IntN(2) == 0 {
				end = nil
			}
			deleted := t.DeleteRange(key, end)
			want := m.rangeAt(key, end, before.revision+1)
			require.Len(h.t, deleted, len(want))
			for i, c := range want {
				require.Equal(h.t, c.kv.Key, deleted[i].Key)
				h.requireMeta(&c, deleted[i].Meta, true)
				m.delete(Rev{before.revision + 1, sub}, c.kv.Key)
				sub++
			}
		default:
			seen := m.clone()
			if sub > 0 {
				seen.revision++
			}
			h.compareRange(seen, t.Range)
			key := h.key()
			meta, ok := t.Get(key)
			h.requireMeta(seen.get(key), meta, ok)
		}
	}
	if h.rnd.IntN(6) == 0 {
		t.Abort()
		return before
	}
	if sub > 0 {
		m.revision++
	}
	require.Equal(h.t, m.revision, t.End())
	return m
}

func (h *story) requireMeta(want *modelChange, got Meta, ok bool) {
	require.Equal(h.t, want != nil, ok)
	if want != nil {
		kv := want.kv
		require.Equal(h.t, Meta{Create: kv.CreateRevision, Mod: want.rev, Version: kv.Version, Lease: kv.Lease}, got)
	}
}

type rangeFunc func(ctx context.Context, key, end []byte, o RangeOptions) (RangeResult, error)

// compareRange compares a random range.
func (h *story) compareRange(m *model, f rangeFunc) {
	h.t.Helper()
	key, end := h.span()
	o := RangeOptions{CountOnly: h.rnd.IntN(5) == 0, KeysOnly: h.rnd.IntN(4) == 0}
	if h.rnd.IntN(2) == 0 {
		o.Limit = h.rnd.Int64N(5)
	}
	if h.rnd.IntN(2) == 0 {
		o.Rev = m.revision - h.rnd.Int64N(10) + 1
	}
	got, err := f(context.Background(), key, end, o)
	rev := o.Rev
	if rev <= 0 {
		rev = m.revision
	}
	switch {
	case rev > m.revision:
		require.ErrorIs(h.t, err, ErrFutureRevision)
		return
	case o.Rev > 0 && rev < m.compact:
		require.ErrorIs(h.t, err, ErrCompacted)
		return
	}
	require.NoError(h.t, err)
	want := m.rangeAt(key, end, rev)
	require.EqualValues(h.t, len(want), got.Count, "%q %q %+v", key, end, o)
	if o.CountOnly {
		want = nil
	}
	if o.Limit > 0 {
		want = want[:min(len(want), int(o.Limit))]
	}
	require.Len(h.t, got.KVs, len(want))
	if !o.KeysOnly {
		require.Len(h.t, got.Raw, len(want))
	}
	for i, c := range want {
		kv := proto.Clone(c.kv).(*mvccpb.KeyValue)
		if o.KeysOnly {
			kv.Value = nil
		} else {
			raw, err := proto.Marshal(c.kv)
			require.NoError(h.t, err)
			require.Equal(h.t, raw, got.Raw[i])
		}
		require.True(h.t, proto.Equal(kv, got.KVs[i]), "%q %q %+v: want %v, got %v", key, end, o, kv, got.KVs[i])
	}
}

// compare compares everything that can be read from the store.
func (h *story) compare() {
	h.t.Helper()
	v := h.db.View()
	h.compareView(v, h.m)
	v.Close()
	h.compareHash()
	got := map[string]string{}
	require.NoError(h.t, h.db.RangeMeta("test", func(k, v []byte) error {
		got[string(k)] = string(v)
		return nil
	}))
	require.Equal(h.t, h.m.meta, got)
	index, _ := h.db.Applied()
	require.Equal(h.t, h.m.index, index)
}

func (h *story) compareView(v *View, m *model) {
	h.t.Helper()
	require.Equal(h.t, m.revision, v.Revision())
	require.Equal(h.t, m.compact, v.CompactRevision())
	for range 6 {
		h.compareRange(m, v.Range)
		key := h.key()
		meta, ok := v.Get(key)
		h.requireMeta(m.get(key), meta, ok)
	}
	if rev := m.revision - h.rnd.Int64N(12); rev >= max(m.compact, 1) {
		t, ok, err := v.rebuild(context.Background(), rev, 1000)
		require.NoError(h.t, err)
		require.True(h.t, ok)
		want := m.at(rev)
		require.Equal(h.t, len(want), t.len())
		for _, c := range want {
			meta, ok := t.get(c.kv.Key)
			h.requireMeta(&c, meta, ok)
		}
	}
	from := m.revision - h.rnd.Int64N(12)
	to := from + h.rnd.Int64N(12)
	var o EventsOptions
	if h.rnd.IntN(2) == 0 {
		o.Match = func(k []byte) bool { return k[0] == 'a' || k[0] == 'c' }
	}
	o.MaxBytes = h.rnd.IntN(3) * 50
	for from <= to {
		events, next, err := v.Events(context.Background(), from, to, o)
		if from < m.compact {
			require.ErrorIs(h.t, err, ErrCompacted)
			return
		}
		require.NoError(h.t, err)
		require.Greater(h.t, next, from)
		require.Equal(h.t, m.events(from, min(to, next-1), o.Match), h.lines(events, v))
		if next > v.Revision() {
			break
		}
		from = next
	}
}

func (h *story) compareHash() {
	h.t.Helper()
	rev := h.m.revision - h.rnd.Int64N(8)
	if h.rnd.IntN(3) == 0 {
		rev = 0
	}
	want, wantErr := h.m.hashKV(rev)
	if want.CompactRevision != h.m.compact || h.rnd.IntN(4) == 0 {
		// A compaction remembers its hash when it begins to remove, which it does when no older view is held.
		h.closeViews()
		require.NoError(h.t, h.db.WaitCompacted(context.Background(), h.m.compact))
	}
	got, err := h.db.HashKV(context.Background(), rev)
	require.ErrorIs(h.t, err, wantErr)
	require.Equal(h.t, want, got, "revision %d", rev)
}

// hold keeps a view open, checks those that are, and closes some.
func (h *story) hold() {
	for _, hv := range h.views {
		h.compareView(hv.v, hv.m)
	}
	h.views = slices.DeleteFunc(h.views, func(hv heldView) bool {
		if h.rnd.IntN(3) == 0 {
			hv.v.Close()
			return true
		}
		return false
	})
	v := h.db.View()
	h.db.trees.remember(v.revision, v.tree) // as if a page had been read
	v.Close()
	if len(h.views) < 4 {
		h.views = append(h.views, heldView{h.db.View(), h.m.clone()})
	}
}

func (h *story) closeViews() {
	for _, hv := range h.views {
		hv.v.Close()
	}
	h.views = nil
}

// restart closes the store and opens it again. Hashes of earlier compactions are forgotten.
func (h *story) restart() {
	h.closeViews()
	require.NoError(h.t, h.db.Close())
	h.open()
	h.m.hashes = nil
}

// crash goes on with what a crash at this moment would leave: the state after one of the batches.
func (h *story) crash() {
	h.closeViews()
	durable, err := h.db.DurableApplied()
	require.NoError(h.t, err)
	clone := h.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: h.rnd.IntN(101), RNG: h.rnd})
	require.NoError(h.t, h.db.Close())
	h.fs, h.o.FS = clone, clone
	h.open()
	index, _ := h.db.Applied()
	require.GreaterOrEqual(h.t, index, durable)
	require.LessOrEqual(h.t, index, h.m.index)
	h.m = h.past[index].clone()
	h.m.hashes = nil
}

func (h *story) run(steps int) {
	for range steps {
		switch n := h.rnd.IntN(100); {
		case n < 60:
			h.batch()
		case n < 80:
			h.compare()
		case n < 88:
			h.hold()
		case n < 90:
			require.NoError(h.t, h.db.Flush())
		case n < 92:
			h.closeViews()
			require.NoError(h.t, h.db.WaitCompacted(context.Background(), h.m.compact))
			require.NoError(h.t, h.db.Reclaim(context.Background()))
		case n < 94:
			h.restart()
		case n < 97:
			h.crash()
		default:
			h.copy()
		}
	}
	h.compare()
	h.closeViews()
	require.NoError(h.t, h.db.Close())
}

// copy goes on with a store that was imported from an export.
func (h *story) copy() {
	h.closeViews()
	pr, pw := io.Pipe()
	exported := make(chan struct{})
	go func() {
		defer close(exported)
		pw.CloseWithError(h.db.Export(context.Background(), pw))
	}()
	fs := vfs.NewCrashableMem()
	o := h.o
	o.FS = fs
	db, err := Import(context.Background(), o, pr)
	require.NoError(h.t, err)
	<-exported
	require.NoError(h.t, h.db.Close())
	h.db, h.fs, h.o = db, fs, o
	h.m.hashes = nil
	durable, err := h.db.DurableApplied()
	require.NoError(h.t, err)
	require.Equal(h.t, h.m.index, durable)
}

// testOptions are ways to set up a store that must make no difference.
func testOptions() map[string]Options {
	small := func(p *pebble.Options) {
		p.L0CompactionThreshold = 1
		p.LBaseMaxBytes = 1 << 10
		for i := range p.Levels {
			p.Levels[i].BlockSize, p.Levels[i].IndexBlockSize = 128, 256
		}
		for i := range p.TargetFileSizes {
			p.TargetFileSizes[i] = 1 << 10
		}
	}
	return map[string]Options{
		"defaults":       {},
		"small memtable": {MemTableBytes: 8 << 10},
		"small files":    {MemTableBytes: 16 << 10, CacheBytes: 1, tune: small},
		"no filters": {MemTableBytes: 16 << 10, tune: func(p *pebble.Options) {
			for i := range p.Levels {
				p.Levels[i].FilterPolicy = pebble.NoFilterPolicy
			}
		}},
	}
}

func TestRandomHistoriesEqualTheModel(t *testing.T) {
	seeds, steps := uint64(3), 300
	if long() {
		seeds, steps = 200, 1000
	}
	for name, o := range testOptions() {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds {
				t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
					newStory(t, seed, o).run(steps)
				})
			}
		})
	}
}
