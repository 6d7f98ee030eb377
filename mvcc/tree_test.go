package mvcc

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
)

// naiveIndex is what a tree must equal: a sorted slice.
type naiveIndex struct {
	keys  [][]byte
	metas []Meta
}

func (x *naiveIndex) pos(key []byte) (int, bool) {
	i := sort.Search(len(x.keys), func(i int) bool { return bytes.Compare(x.keys[i], key) >= 0 })
	return i, i < len(x.keys) && bytes.Equal(x.keys[i], key)
}

func (x *naiveIndex) set(key []byte, m Meta) {
	i, ok := x.pos(key)
	if !ok {
		x.keys = slices.Insert(x.keys, i, bytes.Clone(key))
		x.metas = slices.Insert(x.metas, i, m)
		return
	}
	x.metas[i] = m
}

func (x *naiveIndex) delete(key []byte) {
	if i, ok := x.pos(key); ok {
		x.keys = slices.Delete(x.keys, i, i+1)
		x.metas = slices.Delete(x.metas, i, i+1)
	}
}

func (x *naiveIndex) clone() *naiveIndex {
	return &naiveIndex{slices.Clone(x.keys), slices.Clone(x.metas)}
}

func requireSameIndex(t *testing.T, want *naiveIndex, got tree, rnd *rand.Rand) {
	t.Helper()
	checkNode(t, got.root, nil, nil)
	require.Equal(t, len(want.keys), got.len())
	i := 0
	for c := got.seek(nil, nil); c.valid(); c.next() {
		if i == len(want.keys) || !bytes.Equal(want.keys[i], c.key()) || want.metas[i] != c.meta() {
			t.Fatalf("key %d is %x %+v", i, c.key(), c.meta())
		}
		i++
	}
	require.Equal(t, len(want.keys), i)
	for range 20 {
		from, end := randomTreeKey(rnd), randomTreeKey(rnd)
		a, ok := want.pos(from)
		require.Equal(t, a, got.rank(from))
		m, found := got.get(from)
		require.Equal(t, ok, found)
		if ok {
			require.Equal(t, want.metas[a], m)
		}
		b, _ := want.pos(end)
		n := 0
		for c := got.seek(from, end); c.valid() && n < 50; c.next() {
			require.True(t, bytes.Equal(want.keys[a+n], c.key()))
			n++
		}
		require.Equal(t, min(max(b-a, 0), 50), n)
	}
}

// checkNode holds a subtree to the rules of its kind: bounds, counts, sizes.
func checkNode(t *testing.T, n *node, low, high []byte) {
	t.Helper()
	if n == nil {
		return
	}
	require.False(t, n.empty())
	require.Len(t, n.data, int(endOf(n.ends)))
	if n.kids == nil {
		require.LessOrEqual(t, len(n.ends), maxLeafKeys)
		for i := range n.ends {
			if k := n.key(i); bytes.Compare(k, low) < 0 || (high != nil && bytes.Compare(k, high) >= 0) {
				t.Fatalf("key %x lies outside of its leaf's bounds %x and %x", k, low, high)
			}
		}
		return
	}
	require.LessOrEqual(t, len(n.kids), maxKids)
	require.Len(t, n.ends, len(n.kids)-1)
	for i, k := range n.kids {
		l, h := low, high
		if i > 0 {
			l = n.entry(i - 1)
		}
		if i < len(n.ends) {
			h = n.entry(i)
		}
		require.Equal(t, k.node.count(), k.count)
		checkNode(t, k.node, l, h)
	}
}

func randomTreeKey(rnd *rand.Rand) []byte {
	switch rnd.IntN(6) {
	case 0:
		return []byte(fmt.Sprintf("/registry/pods/ns-%d/pod-%04d", rnd.IntN(3), rnd.IntN(3000)))
	case 1:
		return []byte(fmt.Sprintf("/registry/leases/%d", rnd.IntN(3000)))
	case 2:
		return bytes.Repeat([]byte{byte(rnd.IntN(3) * 127)}, 1+rnd.IntN(300))
	case 3:
		k := make([]byte, 1+rnd.IntN(3))
		for i := range k {
			k[i] = byte(rnd.IntN(3) * 127)
		}
		return k
	case 4:
		return append(bytes.Repeat([]byte("long"), 600), byte(rnd.IntN(256)), byte(rnd.IntN(256)))
	default:
		return []byte(fmt.Sprintf("%x", rnd.IntN(2000)))
	}
}

func randomMeta(rnd *rand.Rand) Meta {
	m := Meta{Create: 2 + rnd.Int64N(1<<uint(1+rnd.IntN(60))), Version: 1 + rnd.Int64N(1000)}
	m.Mod = Rev{m.Create + rnd.Int64N(1000), int32(rnd.IntN(3))}
	if rnd.IntN(3) == 0 {
		m.Lease = rnd.Int64()
	}
	return m
}

func TestTreeEqualsASortedListAndOldTreesStayAsTheyWere(t *testing.T) {
	seeds := uint64(2)
	if long() {
		seeds = 50
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var cur tree
		model := &naiveIndex{}
		type snapshot struct {
			tree  tree
			model *naiveIndex
		}
		var old []snapshot
		for round := range 60 {
			cur = cur.edit()
			deletes := []int{1, 5, 9}[round/8%3] // growing, steady, shrinking
			for range 150 {
				key := randomTreeKey(rnd)
				if rnd.IntN(10) < deletes {
					if len(model.keys) > 0 && rnd.IntN(4) > 0 {
						key = model.keys[rnd.IntN(len(model.keys))]
					}
					i, ok := model.pos(key)
					m, existed := cur.delete(key)
					require.Equal(t, ok, existed)
					if ok {
						require.Equal(t, model.metas[i], m)
					}
					model.delete(key)
					continue
				}
				m := randomMeta(rnd)
				_, ok := model.pos(key)
				_, existed := cur.set(key, m)
				require.Equal(t, ok, existed)
				model.set(key, m)
			}
			if round%5 == 0 {
				requireSameIndex(t, model, cur, rnd)
			}
			old = append(old, snapshot{cur, model.clone()})
		}
		for i := 0; i < len(old); i += 7 {
			s := old[i]
			requireSameIndex(t, s.model, s.tree, rnd)
		}
		cur = cur.edit()
		for _, k := range model.keys {
			cur.delete(k)
		}
		require.Nil(t, cur.root)
	}
}

func TestKeysSetInOrderFillTheirLeaves(t *testing.T) {
	cur := tree{}.edit()
	for i := range 64 * 100 {
		cur.set([]byte(fmt.Sprintf("/registry/pods/%06d", i)), Meta{Create: 1, Mod: Rev{1, 0}, Version: 1})
	}
	leaves := 0
	var walk func(n *node)
	walk = func(n *node) {
		if n.kids == nil {
			leaves++
		}
		for _, k := range n.kids {
			walk(k.node)
		}
	}
	walk(cur.root)
	require.LessOrEqual(t, leaves, 101)
}

func TestATreeOfJoinedLeavesHoldsAllKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{0, 1, 2, 3, 63, 64, 65, 66, 2000, 64*32 + 1, 64*32*32 + 5} {
		model := &naiveIndex{}
		for i := range n {
			key := fmt.Appendf(nil, "/registry/%x", 1<<24+i)
			if n == 2000 {
				key = append(key, bytes.Repeat([]byte{'x'}, i)...) // more than a leaf is to hold
			}
			model.keys = append(model.keys, key)
			model.metas = append(model.metas, randomMeta(rnd))
		}
		parts := make([]leafBuilder, 4)
		var leaves []kid
		for i := range parts {
			from, to := n*i/len(parts), n*(i+1)/len(parts)
			for j := from; j < to; j++ {
				parts[i].add(model.keys[j], model.metas[j])
			}
			parts[i].end()
			leaves = append(leaves, parts[i].leaves...)
		}
		for _, l := range leaves {
			if len(l.ends) > maxLeafKeys || len(l.data) > maxLeafBytes+5000 {
				t.Errorf("a leaf has %d keys in %d bytes", len(l.ends), len(l.data))
			}
		}
		joined := joinLeaves(leaves)
		requireSameIndex(t, model, joined, rnd)
		joined = joined.edit()
		for range min(n, 500) {
			i := rnd.IntN(len(model.keys))
			joined.delete(model.keys[i])
			model.delete(model.keys[i])
			key, m := randomTreeKey(rnd), randomMeta(rnd)
			joined.set(key, m)
			model.set(key, m)
		}
		requireSameIndex(t, model, joined, rnd)
	}
}

func TestCombinedCRCsAreThoseOfTheWhole(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	for _, n := range []int{0, 1, 2, 3, 7, 8, 100, 4096, 1<<20 + 17} {
		b := make([]byte, n)
		fillRandom(rnd, b)
		for _, at := range []int{0, n / 3, n / 2, n} {
			a, z := crc32.Checksum(b[:at], castagnoli), crc32.Checksum(b[at:], castagnoli)
			require.Equal(t, crc32.Checksum(b, castagnoli), combineCRC(a, z, n-at))
		}
	}
}
