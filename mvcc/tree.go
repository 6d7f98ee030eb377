package mvcc

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
)

// tree is the index of the current keys: a B-tree from user key to Meta that knows how many keys every subtree holds.
// A tree is a value; a copy of it is a snapshot. Nodes are shared among copies and never change, but for those that
// the copy itself has made since edit was last called: these are changed in place. So a batch copies each node it
// touches once, and readers of older trees need no lock.
//
// A node keeps its keys in one byte slice without pointers, which the garbage collector does not look into: what a key
// takes is its bytes, without those that all keys of the leaf begin with, some ten bytes of Meta and four of offset.
type tree struct {
	root *node
	id   uint64 // edit that may change nodes made by it

	// copied counts the bytes of all nodes that edits of this tree and its ancestors have replaced: the difference
	// between two trees bounds what the older of them keeps alive.
	copied int64
}

const (
	maxLeafKeys  = 64
	maxLeafBytes = 8 << 10 // split above it even if there are fewer keys; a single key may be longer
	maxKids      = 32
	maxDepth     = 16
)

// node is a leaf or an inner node. A leaf has one entry a key: the key without the leaf's prefix, the encoded Meta, and
// the length of the latter in one byte. An inner node has one entry for each kid but the first: a key that is greater
// than all keys before that kid and not greater than any in it.
type node struct {
	id     uint64
	prefix []byte   // leaf: common to all keys
	data   []byte   // entries, one after the other
	ends   []uint32 // where each entry ends in data
	kids   []kid    // nil in a leaf
}

type kid struct {
	*node
	count int // keys in the subtree
}

var lastEdit atomic.Uint64

// edit returns a copy of t that may be changed.
func (t tree) edit() tree {
	t.id = lastEdit.Add(1)
	return t
}

func (n *node) entry(i int) []byte {
	if i == 0 {
		return n.data[:n.ends[0]]
	}
	return n.data[n.ends[i-1]:n.ends[i]]
}

// suffix returns the key of a leaf's entry without the leaf's prefix.
func (n *node) suffix(i int) []byte {
	e := n.entry(i)
	return e[:len(e)-1-int(e[len(e)-1])]
}

func (n *node) meta(i int) Meta {
	e := n.entry(i)
	return decodeMeta(e[len(e)-1-int(e[len(e)-1]):])
}

func (n *node) key(i int) []byte {
	s := n.suffix(i)
	return append(append(make([]byte, 0, len(n.prefix)+len(s)), n.prefix...), s...)
}

// find returns the first entry of a leaf that is not less than key, and whether it is key.
func (n *node) find(key []byte) (int, bool) {
	p := len(n.prefix)
	if len(key) < p || !bytes.Equal(key[:p], n.prefix) {
		if bytes.Compare(key, n.prefix) < 0 {
			return 0, false
		}
		return len(n.ends), false
	}
	key = key[p:]
	lo, hi := 0, len(n.ends)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := bytes.Compare(n.suffix(mid), key); {
		case c < 0:
			lo = mid + 1
		case c > 0:
			hi = mid
		default:
			return mid, true
		}
	}
	return lo, false
}

// child returns the kid of an inner node in whose subtree key belongs.
func (n *node) child(key []byte) int {
	lo, hi := 0, len(n.ends)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(n.entry(mid), key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (n *node) count() int {
	if n == nil {
		return 0
	}
	if n.kids == nil {
		return len(n.ends)
	}
	c := 0
	for _, k := range n.kids {
		c += k.count
	}
	return c
}

// len returns the number of keys.
func (t tree) len() int { return t.root.count() }

// get looks a key up.
func (t tree) get(key []byte) (Meta, bool) {
	n := t.root
	if n == nil {
		return Meta{}, false
	}
	for n.kids != nil {
		n = n.kids[n.child(key)].node
	}
	i, ok := n.find(key)
	if !ok {
		return Meta{}, false
	}
	return n.meta(i), true
}

// rank returns the number of keys less than key.
func (t tree) rank(key []byte) int {
	n, r := t.root, 0
	if n == nil {
		return 0
	}
	for n.kids != nil {
		c := n.child(key)
		for _, k := range n.kids[:c] {
			r += k.count
		}
		n = n.kids[c].node
	}
	i, _ := n.find(key)
	return r + i
}

// own returns n if this edit may change it, else a copy that it may change.
func (t *tree) own(n *node) *node {
	if n.id == t.id {
		return n
	}
	t.copied += int64(len(n.data)+4*len(n.ends)+16*len(n.kids)+len(n.prefix)) + 128
	c := &node{id: t.id, prefix: n.prefix}
	c.data = append(make([]byte, 0, len(n.data)+64), n.data...)
	c.ends = append(make([]uint32, 0, len(n.ends)+2), n.ends...)
	if n.kids != nil {
		c.kids = append(make([]kid, 0, len(n.kids)+1), n.kids...)
	}
	return c
}

// replace puts e in the place of n entries from i on; n is 0 or 1.
func (n *node) replace(i, count int, e []byte) {
	from := uint32(0)
	if i > 0 {
		from = n.ends[i-1]
	}
	to := from
	if count == 1 {
		to = n.ends[i]
	} else {
		n.ends = insertAt(n.ends, i, from)
	}
	d := len(e) - int(to-from)
	old := len(n.data)
	if old+d > cap(n.data) {
		grown := make([]byte, old, old+d+old/8+64)
		copy(grown, n.data)
		n.data = grown
	}
	n.data = n.data[:old+max(d, 0)]
	copy(n.data[int(to)+d:], n.data[to:old])
	copy(n.data[from:], e)
	n.data = n.data[:old+d]
	for j := i; j < len(n.ends); j++ {
		n.ends[j] = uint32(int(n.ends[j]) + d)
	}
}

// remove takes entry i out.
func (n *node) remove(i int) {
	e := n.entry(i)
	d, end := uint32(len(e)), n.ends[i]
	n.data = append(n.data[:end-d], n.data[end:]...)
	n.ends = append(n.ends[:i], n.ends[i+1:]...)
	for j := i; j < len(n.ends); j++ {
		n.ends[j] -= d
	}
}

func insertAt[T any](s []T, i int, v T) []T {
	s = append(s, v)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

// put gives a key its next version, or its first, and returns what is known about it now and what was before.
func (t *tree) put(key []byte, rev Rev, lease int64) (m, old Meta, existed bool) {
	m = Meta{Mod: rev, Lease: lease}
	old, existed = t.setRoot(key, &m)
	return m, old, existed
}

// set adds a key or replaces what is known about it, and returns what was known before.
func (t *tree) set(key []byte, m Meta) (old Meta, existed bool) { return t.setRoot(key, &m) }

// setRoot sets what is known about a key. If m has no version, it becomes the one that follows what was known before.
func (t *tree) setRoot(key []byte, m *Meta) (old Meta, existed bool) {
	if t.root == nil {
		t.root = &node{id: t.id}
	}
	t.root = t.own(t.root)
	old, existed, right, sep := t.setIn(t.root, key, m)
	if right != nil {
		left := t.root
		t.root = &node{id: t.id, kids: []kid{{left, left.count()}, {right, right.count()}}}
		t.root.replace(0, 0, sep)
	}
	return old, existed
}

// setIn is setRoot in a subtree that the edit owns. If the node had to be split, it returns the new right half and the
// key that separates the two.
func (t *tree) setIn(n *node, key []byte, m *Meta) (old Meta, existed bool, right *node, sep []byte) {
	if n.kids == nil {
		old, existed = n.setEntry(key, m)
		right, sep = t.splitLeaf(n, key)
		return old, existed, right, sep
	}
	c := n.child(key)
	k := t.own(n.kids[c].node)
	n.kids[c].node = k
	old, existed, right, sep = t.setIn(k, key, m)
	if right != nil {
		n.kids[c].count = k.count()
		n.kids = insertAt(n.kids, c+1, kid{right, right.count()})
		n.replace(c, 0, sep)
		right, sep = t.splitInner(n, c+1)
	} else if !existed {
		n.kids[c].count++
	}
	return old, existed, right, sep
}

// setEntry is setRoot in a leaf.
func (n *node) setEntry(key []byte, m *Meta) (old Meta, existed bool) {
	if len(n.ends) == 0 {
		n.prefix = bytes.Clone(key)
	} else if p := commonPrefix(n.prefix, key); p < len(n.prefix) {
		n.shortenPrefix(p)
	}
	i, existed := n.find(key)
	count := 0
	if existed {
		old = n.meta(i)
		count = 1
	}
	if m.Version == 0 {
		m.Create, m.Version = m.Mod.Main, 1
		if existed {
			m.Create, m.Version = old.Create, old.Version+1
		}
	}
	var buf [256]byte
	e := append(buf[:0], key[len(n.prefix):]...)
	mark := len(e)
	e = appendMeta(e, *m)
	n.replace(i, count, append(e, byte(len(e)-mark)))
	return old, existed
}

func commonPrefix(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// shortenPrefix moves all but the first p bytes of a leaf's prefix into its entries.
func (n *node) shortenPrefix(p int) {
	moved := n.prefix[p:]
	data := make([]byte, 0, len(n.data)+len(moved)*len(n.ends)+64)
	from := uint32(0)
	for i, end := range n.ends {
		data = append(append(data, moved...), n.data[from:end]...)
		n.ends[i] = uint32(len(data))
		from = end
	}
	n.prefix, n.data = n.prefix[:p:p], data
}

// newLeaf makes a leaf of entries from to to (excluded) of n, whose keys are given without n's prefix.
func (t *tree) newLeaf(n *node, from, to int) *node {
	p := commonPrefix(n.suffix(from), n.suffix(to-1))
	size := 0
	for i := from; i < to; i++ {
		size += len(n.entry(i)) - p
	}
	l := &node{
		id:     t.id,
		prefix: append(append(make([]byte, 0, len(n.prefix)+p), n.prefix...), n.suffix(from)[:p]...),
		data:   make([]byte, 0, size+64),
		ends:   make([]uint32, 0, to-from+1),
	}
	for i := from; i < to; i++ {
		l.data = append(l.data, n.entry(i)[p:]...)
		l.ends = append(l.ends, uint32(len(l.data)))
	}
	return l
}

// splitLeaf splits a leaf that has become too large by the key that was set last: in the middle, or before that key if
// it is the leaf's last, so that keys that come in order leave full leaves behind.
func (t *tree) splitLeaf(n *node, key []byte) (right *node, sep []byte) {
	if len(n.ends) < 2 || (len(n.ends) <= maxLeafKeys && len(n.data) <= maxLeafBytes) {
		return nil, nil
	}
	at := len(n.ends) / 2
	if i, _ := n.find(key); i == len(n.ends)-1 {
		at = i
	}
	p := commonPrefix(n.suffix(at-1), n.suffix(at))
	sep = append(append([]byte(nil), n.prefix...), n.suffix(at)[:p+1]...)
	right = t.newLeaf(n, at, len(n.ends))
	*n = *t.newLeaf(n, 0, at)
	return right, sep
}

// splitInner splits an inner node that has too many kids since one was added in place added.
func (t *tree) splitInner(n *node, added int) (right *node, sep []byte) {
	if len(n.kids) <= maxKids {
		return nil, nil
	}
	at := len(n.kids) / 2
	if added == len(n.kids)-1 {
		at = added
	}
	sep = bytes.Clone(n.entry(at - 1))
	right = &node{id: t.id, kids: append(make([]kid, 0, len(n.kids)-at+1), n.kids[at:]...)}
	for i := at; i < len(n.ends); i++ {
		right.replace(i-at, 0, n.entry(i))
	}
	clear(n.kids[at:])
	n.kids = n.kids[:at]
	n.ends = n.ends[:at-1]
	n.data = n.data[:endOf(n.ends)]
	return right, sep
}

func endOf(ends []uint32) uint32 {
	if len(ends) == 0 {
		return 0
	}
	return ends[len(ends)-1]
}

// delete removes a key and returns what was known about it.
func (t *tree) delete(key []byte) (old Meta, existed bool) {
	if old, existed = t.get(key); !existed {
		return old, false
	}
	t.root = t.own(t.root)
	t.deleteIn(t.root, key)
	for len(t.root.kids) == 1 {
		t.root = t.root.kids[0].node
	}
	if t.root.empty() {
		t.root = nil
	}
	return old, true
}

// deleteIn removes a key that exists from a subtree that the edit owns.
func (t *tree) deleteIn(n *node, key []byte) {
	if n.kids == nil {
		i, _ := n.find(key)
		n.remove(i)
		return
	}
	c := n.child(key)
	k := t.own(n.kids[c].node)
	n.kids[c] = kid{k, n.kids[c].count - 1}
	t.deleteIn(k, key)
	switch {
	case k.empty():
		n.dropKid(c)
		if len(n.ends) > 0 {
			n.remove(max(c-1, 0))
		}
	case k.small():
		if c == 0 || !t.merge(n, c-1) {
			t.merge(n, c)
		}
	}
}

func (n *node) empty() bool {
	if n.kids != nil {
		return len(n.kids) == 0
	}
	return len(n.ends) == 0
}

// small reports whether a node is worth merging with a neighbour.
func (n *node) small() bool {
	if n.kids != nil {
		return len(n.kids) < maxKids/4
	}
	return len(n.ends) < maxLeafKeys/4
}

func (n *node) dropKid(c int) {
	copy(n.kids[c:], n.kids[c+1:])
	n.kids[len(n.kids)-1] = kid{}
	n.kids = n.kids[:len(n.kids)-1]
}

// merge makes kids c and c+1 of n one, if there are two and they fit into one with room to spare.
func (t *tree) merge(n *node, c int) bool {
	if c+1 >= len(n.kids) {
		return false
	}
	l, r := n.kids[c].node, n.kids[c+1].node
	sep := n.entry(c)
	var m *node
	if l.kids != nil {
		if len(l.kids)+len(r.kids) > maxKids*3/4 {
			return false
		}
		m = &node{id: t.id, kids: append(append(make([]kid, 0, len(l.kids)+len(r.kids)+1), l.kids...), r.kids...)}
		m.data = append(append(append(make([]byte, 0, len(l.data)+len(sep)+len(r.data)), l.data...), sep...), r.data...)
		m.ends = append(make([]uint32, 0, len(m.kids)), l.ends...)
		m.ends = append(m.ends, endOf(l.ends)+uint32(len(sep)))
		base := m.ends[len(m.ends)-1]
		for _, e := range r.ends {
			m.ends = append(m.ends, base+e)
		}
	} else {
		if len(l.ends)+len(r.ends) > maxLeafKeys*3/4 ||
			len(l.data)+len(r.data) > maxLeafBytes*3/4 {
			return false
		}
		m = t.mergeLeaves(l, r)
	}
	n.kids[c] = kid{m, n.kids[c].count + n.kids[c+1].count}
	n.dropKid(c + 1)
	n.remove(c)
	return true
}

func (t *tree) mergeLeaves(l, r *node) *node {
	p := commonPrefix(l.prefix, r.prefix)
	m := &node{
		id:     t.id,
		prefix: l.prefix[:p:p],
		data:   make([]byte, 0, len(l.data)+(len(l.prefix)-p)*len(l.ends)+len(r.data)+(len(r.prefix)-p)*len(r.ends)),
		ends:   make([]uint32, 0, len(l.ends)+len(r.ends)),
	}
	for _, n := range []*node{l, r} {
		for i := range n.ends {
			m.data = append(append(m.data, n.prefix[p:]...), n.entry(i)...)
			m.ends = append(m.ends, uint32(len(m.data)))
		}
	}
	return m
}

// appendMeta encodes a Meta in few bytes: revisions relative to the creation, no lease if there is none.
func appendMeta(dst []byte, m Meta) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.Create))
	dst = binary.AppendUvarint(dst, uint64(m.Mod.Main-m.Create))
	dst = binary.AppendUvarint(dst, uint64(m.Version))
	sub := uint64(m.Mod.Sub) << 1
	if m.Lease == 0 {
		return binary.AppendUvarint(dst, sub)
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, sub|1), uint64(m.Lease))
}

func decodeMeta(b []byte) (m Meta) {
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	m.Create = int64(next())
	m.Mod.Main = m.Create + int64(next())
	m.Version = int64(next())
	sub := next()
	m.Mod.Sub = int32(sub >> 1)
	if sub&1 != 0 {
		m.Lease = int64(next())
	}
	return m
}
