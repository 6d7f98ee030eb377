package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// model is what a store must equal: a plain list of all changes, and the rules of etcd applied to it in the plainest way.
type model struct {
	changes  []modelChange // by revision
	revision int64
	compact  int64
	index    uint64
	hashes   []KeyValueHash // of the compactions since the store was opened
	meta     map[string]string
}

type modelChange struct {
	rev       Rev
	tombstone bool
	kv        *mvccpb.KeyValue // of a deletion: the key
}

func newModel() *model { return &model{revision: 1, compact: -1, meta: map[string]string{}} }

func (m *model) clone() *model {
	c := *m
	c.changes = slices.Clone(m.changes)
	c.hashes = slices.Clone(m.hashes)
	c.meta = maps.Clone(m.meta)
	return &c
}

// at returns the newest version of each key at a revision, by key, without deleted keys.
func (m *model) at(rev int64) []modelChange {
	newest := map[string]modelChange{}
	for _, c := range m.changes {
		if c.rev.Main > rev {
			break
		}
		newest[string(c.kv.Key)] = c
	}
	var out []modelChange
	for _, c := range newest {
		if !c.tombstone {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b modelChange) int { return bytes.Compare(a.kv.Key, b.kv.Key) })
	return out
}

func (m *model) change(rev Rev) modelChange {
	return m.changes[slices.IndexFunc(m.changes, func(c modelChange) bool { return c.rev == rev })]
}

func inRange(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}

func (m *model) rangeAt(key, end []byte, rev int64) []modelChange {
	return slices.DeleteFunc(m.at(rev), func(c modelChange) bool { return !inRange(c.kv.Key, key, end) })
}

// get returns the newest version of a key.
func (m *model) get(key []byte) *modelChange {
	for i := len(m.changes) - 1; i >= 0; i-- {
		if c := &m.changes[i]; bytes.Equal(c.kv.Key, key) {
			if c.tombstone {
				return nil
			}
			return c
		}
	}
	return nil
}

// before returns the message of a key at the revision before main, nil if there is none or it was compacted.
func (m *model) before(key []byte, main int64) *mvccpb.KeyValue {
	if main-1 < m.compact {
		return nil
	}
	if r := m.rangeAt(key, nil, main-1); len(r) > 0 {
		return r[0].kv
	}
	return nil
}

func (m *model) put(rev Rev, key, value []byte, lease int64) {
	kv := &mvccpb.KeyValue{Key: key, Value: value, Lease: lease, CreateRevision: rev.Main, ModRevision: rev.Main, Version: 1}
	if old := m.get(key); old != nil {
		kv.CreateRevision, kv.Version = old.kv.CreateRevision, old.kv.Version+1
	}
	m.changes = append(m.changes, modelChange{rev: rev, kv: kv})
}

func (m *model) delete(rev Rev, key []byte) {
	m.changes = append(m.changes, modelChange{rev: rev, tombstone: true, kv: &mvccpb.KeyValue{Key: key}})
}

// compactTo removes, for each key, what is older than its newest version at rev, and all deletions before rev.
func (m *model) compactTo(rev int64) {
	m.hashes = append(m.hashes, KeyValueHash{Hash: m.hash(rev, true), CompactRevision: m.compact, Revision: rev})
	if len(m.hashes) > 10 {
		m.hashes = m.hashes[1:]
	}
	newest := map[string]Rev{}
	for _, c := range m.changes {
		if c.rev.Main <= rev {
			newest[string(c.kv.Key)] = c.rev
		}
	}
	m.changes = slices.DeleteFunc(m.changes, func(c modelChange) bool {
		if c.tombstone {
			return c.rev.Main < rev
		}
		return c.rev.Main <= rev && newest[string(c.kv.Key)] != c.rev
	})
	m.compact = rev
}

// hash is etcd's: a CRC over what its key bucket holds, less what the compaction to the hashed revision would drop.
func (m *model) hash(rev int64, compacting bool) uint32 {
	keep := map[Rev]bool{}
	for _, c := range m.at(rev) {
		keep[c.rev] = true
	}
	for _, c := range m.changes {
		if c.rev.Main == rev && c.tombstone {
			// A key that is put again after it was deleted in the same transaction does not count.
			for r := range keep {
				if r.Main == rev && bytes.Equal(m.change(r).kv.Key, c.kv.Key) {
					delete(keep, r)
				}
			}
			keep[c.rev] = compacting
		}
	}
	maps.DeleteFunc(keep, func(_ Rev, kept bool) bool { return !kept })
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	for _, c := range m.changes {
		switch {
		case c.rev.Main > rev,
			c.rev.Main <= m.compact && len(keep) > 0 && !keep[c.rev],
			c.rev.Main == m.compact && c.tombstone:
			continue
		}
		k := binary.BigEndian.AppendUint64(nil, uint64(c.rev.Main))
		k = binary.BigEndian.AppendUint64(append(k, '_'), uint64(c.rev.Sub))
		if c.tombstone {
			k = append(k, 't')
		}
		h.Write(k)
		v, err := proto.Marshal(c.kv)
		if err != nil {
			panic(err)
		}
		h.Write(v)
	}
	return h.Sum32()
}

func (m *model) hashKV(rev int64) (KeyValueHash, error) {
	for _, h := range m.hashes {
		if h.Revision == rev {
			h.Current = m.revision
			return h, nil
		}
	}
	switch {
	case rev > 0 && rev < m.compact:
		return KeyValueHash{}, ErrCompacted
	case rev > m.revision:
		return KeyValueHash{}, ErrFutureRevision
	case rev == 0:
		rev = m.revision
	}
	return KeyValueHash{Hash: m.hash(rev, false), CompactRevision: m.compact, Revision: rev, Current: m.revision}, nil
}

// events returns the changes of revisions from to to as text, a line each.
func (m *model) events(from, to int64, match func([]byte) bool) (lines []string) {
	for _, c := range m.changes {
		if c.rev.Main < from || c.rev.Main > to || (match != nil && !match(c.kv.Key)) {
			continue
		}
		kv := proto.Clone(c.kv).(*mvccpb.KeyValue)
		kv.ModRevision = c.rev.Main
		lines = append(lines, eventLine(c.rev.Main, c.tombstone, kv, m.before(kv.Key, c.rev.Main)))
	}
	return lines
}

func eventLine(main int64, tombstone bool, kv, prev *mvccpb.KeyValue) string {
	return fmt.Sprintf("%d deleted=%v %s prev %s", main, tombstone, messageLine(kv), messageLine(prev))
}

func messageLine(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	return fmt.Sprintf("%q=%q create=%d mod=%d version=%d lease=%d",
		kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}
