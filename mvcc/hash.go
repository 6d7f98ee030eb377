package mvcc

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// KeyValueHash is the answer of HashKV.
type KeyValueHash struct {
	Hash            uint32
	CompactRevision int64 // that the hash was computed with; -1: never compacted
	Revision        int64 // up to which the hash covers the history
	Current         int64 // current revision when the hash was asked for
}

// hashes remembers the hashes of what existed before the last compactions.
type hashes struct {
	mu     sync.Mutex
	hashes []KeyValueHash // by revision
}

const maxHashes = 10

func (h *hashes) remember(k KeyValueHash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hashes = append(h.hashes, k)
	sort.Slice(h.hashes, func(i, j int) bool { return h.hashes[i].Revision < h.hashes[j].Revision })
	if n := len(h.hashes); n > maxHashes {
		h.hashes = slices.Clone(h.hashes[n-maxHashes:])
	}
}

func (h *hashes) lookup(rev int64) (KeyValueHash, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.hashes {
		if k.Revision == rev {
			return k, true
		}
	}
	return KeyValueHash{}, false
}

// Hashes returns the hashes that are remembered of what existed before the last compactions, by revision.
func (db *DB) Hashes() []KeyValueHash {
	db.hashes.mu.Lock()
	defer db.hashes.mu.Unlock()
	return slices.Clone(db.hashes.hashes)
}

// HashKV returns etcd's hash of the history up to rev (0: the current revision). It covers what exists logically: how far
// the removal of compacted versions has come makes no difference. For the revision of one of the last ten
// compactions since the store was opened it is the hash of what existed before that compaction. The errors are
// ErrCompacted, ErrFutureRevision, that of ctx, or what the disk said.
func (db *DB) HashKV(ctx context.Context, rev int64) (KeyValueHash, error) {
	v := db.View()
	defer v.Close()
	if k, ok := db.hashes.lookup(rev); ok {
		k.Current = v.revision
		return k, nil
	}
	switch {
	case rev > 0 && rev < v.compact:
		return KeyValueHash{}, ErrCompacted
	case rev > v.revision:
		return KeyValueHash{}, ErrFutureRevision
	case rev == 0:
		rev = v.revision
	}
	start := time.Now()
	hash, err := db.hashHistory(ctx, history{compact: v.compact, finished: db.remover.finished.Load(), revision: rev})
	if err != nil {
		return KeyValueHash{}, err
	}
	hashRevSeconds.Observe(time.Since(start).Seconds())
	return KeyValueHash{Hash: hash, CompactRevision: v.compact, Revision: rev, Current: v.revision}, nil
}

// history says what of the changes in the store a hash covers.
type history struct {
	compact    int64 // compact revision
	finished   int64 // last compaction whose removal had ended before the hash was begun
	revision   int64 // last revision to cover
	compacting bool  // the hash is taken by the compaction to revision itself

	pace func(time.Duration) error // called now and then with the time that the work since the last call took
}

// hashHistory computes etcd's hash, a CRC-32C over the revisions (in etcd's encoding) and messages of
//   - all changes above the compact revision, and
//   - those up to it that are the newest version of a key at the last revision that is covered, unless no key
//     exists at that revision: then all of those that the compaction has left.
//
// Deletions up to the compact revision are never covered.
//
// No message is read for it: a change holds the CRC of its message, and CRCs can be put together.
func (db *DB) hashHistory(ctx context.Context, h history) (uint32, error) {
	sum := crcSum{crc: crc32.Checksum([]byte("key"), castagnoli)}
	if h.revision < 0 {
		return sum.crc, nil
	}
	p := pacer{ctx: ctx, pace: h.pace, start: time.Now()}

	// removed and replaced are the versions up to the compact revision that changes up to it, and after it, replaced.
	// Those of changes up to finished are not in the store any more.
	var removed, replaced []Rev
	keys := 0                        // how many more keys exist than at the compact revision
	deleted := make(map[string]bool) // by the last revision; for etcd they do not exist there even if it put them again
	it, err := db.changesFrom(Rev{Main: max(h.finished+1, 0)}, h.revision)
	if err != nil {
		return 0, err
	}
	defer it.close()
	for it.next() {
		if err := p.step(); err != nil {
			return 0, err
		}
		c := &it.change
		switch {
		case it.rev.Main <= h.compact:
			if c.prev != (Rev{}) {
				removed = append(removed, c.prev)
			}
			continue
		case deleted[string(c.key)]:
		case c.tombstone:
			keys--
			if it.rev.Main == h.revision {
				deleted[string(c.key)] = true
			}
		case c.prev == Rev{}:
			keys++
		}
		if c.prev != (Rev{}) && c.prev.Main <= h.compact {
			replaced = append(replaced, c.prev)
		}
	}
	if it.err != nil {
		return 0, it.err
	}
	slices.SortFunc(removed, Rev.compare)
	slices.SortFunc(replaced, Rev.compare)

	// Up to the compact revision, newest covers the newest versions at h.revision and kept all that the compaction left.
	kept, newest := sum, sum
	all, err := db.changesFrom(Rev{}, h.revision)
	if err != nil {
		return 0, err
	}
	defer all.close()
	above := false
	for all.next() {
		if err := p.step(); err != nil {
			return 0, err
		}
		c := &all.change
		if all.rev.Main <= h.compact {
			if c.tombstone || pop(&removed, all.rev) {
				continue
			}
			keys++
			kept.add(all.rev, c)
			if !pop(&replaced, all.rev) {
				newest.add(all.rev, c)
			}
			continue
		}
		if !above {
			above, sum = true, h.choose(kept, newest, keys, len(deleted) > 0)
		}
		sum.add(all.rev, c)
	}
	if all.err != nil {
		return 0, all.err
	}
	if !above {
		sum = h.choose(kept, newest, keys, len(deleted) > 0)
	}
	return sum.crc, nil
}

// choose returns what covers the changes up to the compact revision, given how many keys exist at the last revision. etcd
// has no list of the newest versions then, and covers them all. A compaction lists the deletions of its own revision, too.
func (h history) choose(kept, newest crcSum, keys int, deleted bool) crcSum {
	if keys > 0 || (h.compacting && deleted) {
		return newest
	}
	return kept
}

// pop reports whether r is in a sorted list, and drops all that is not greater than r.
func pop(list *[]Rev, r Rev) bool {
	l := *list
	for len(l) > 0 && l[0].less(r) {
		l = l[1:]
	}
	found := len(l) > 0 && l[0] == r
	if found {
		l = l[1:]
	}
	*list = l
	return found
}

// pacer checks the context and pauses every so many steps.
type pacer struct {
	ctx   context.Context
	pace  func(time.Duration) error
	n     int
	start time.Time
}

func (p *pacer) step() error {
	if p.n++; p.n%1024 != 0 {
		return nil
	}
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.pace == nil {
		return nil
	}
	err := p.pace(time.Since(p.start))
	p.start = time.Now()
	return err
}

// crcSum puts CRCs together: of what was covered before, and of a change.
type crcSum struct {
	crc uint32
}

func (s *crcSum) add(rev Rev, c *change) {
	// The revision in etcd's encoding; a deletion has a mark, and a message that holds nothing but the key.
	var key [18]byte
	binary.BigEndian.PutUint64(key[:], uint64(rev.Main))
	key[8] = '_'
	binary.BigEndian.PutUint64(key[9:], uint64(rev.Sub))
	if !c.tombstone {
		s.crc = combineCRC(crc32.Update(s.crc, castagnoli, key[:17]), c.crc, c.length)
		return
	}
	key[17] = 't'
	s.crc = crc32.Update(s.crc, castagnoli, key[:])
	head := binary.AppendUvarint([]byte{tagKey}, uint64(len(c.key)))
	s.crc = crc32.Update(crc32.Update(s.crc, castagnoli, head), castagnoli, c.key)
}

// Hash returns a checksum of the whole current content, records outside the history included, and its revision.
func (db *DB) Hash(ctx context.Context) (hash uint32, revision int64, err error) {
	start := time.Now()
	v := db.View()
	defer v.Close()
	crc, err := db.hashHistory(ctx, history{compact: v.compact, finished: db.remover.finished.Load(), revision: v.revision})
	if err != nil {
		return 0, 0, err
	}
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceMeta, 0}, UpperBound: []byte{spaceMeta + 1, 0}})
	if err != nil {
		return 0, 0, fmt.Errorf("mvcc: hash records: %w", err)
	}
	defer it.Close()
	own := appendMetaKey(nil, bucketStore, nil)
	for it.First(); it.Valid(); it.Next() {
		if k := it.Key(); len(k) > len(own) && string(k[:len(own)-1]) == string(own[:len(own)-1]) {
			continue // where this member stands, not what it holds
		}
		val, err := it.ValueAndErr()
		if err != nil {
			return 0, 0, fmt.Errorf("mvcc: hash records: %w", err)
		}
		crc = crc32.Update(crc32.Update(crc, castagnoli, it.Key()), castagnoli, val)
	}
	if err := it.Error(); err != nil {
		return 0, 0, fmt.Errorf("mvcc: hash records: %w", err)
	}
	hashSeconds.Observe(time.Since(start).Seconds())
	return crc, v.revision, nil
}
