package mvcc

// joinLeaves makes a tree of leaves, none of them empty, of which each holds greater keys than the one before.
func joinLeaves(level []kid) tree {
	t := tree{}.edit()
	// seps[i] separates level[i] from level[i-1].
	seps := make([][]byte, len(level))
	for i := 1; i < len(level); i++ {
		last, first := level[i-1].key(len(level[i-1].ends)-1), level[i].key(0)
		seps[i] = first[:commonPrefix(last, first)+1]
	}
	for len(level) > 1 {
		var kids []kid
		var above [][]byte
		// No node gets a single kid, unless the level has just one.
		for n := (len(level) + maxKids - 1) / maxKids; n > 0; n-- {
			m := len(level) / n
			k := kid{node: &node{id: t.id, kids: append(make([]kid, 0, m+1), level[:m]...)}}
			for i := range k.kids {
				k.count += k.kids[i].count
				if i > 0 {
					k.replace(i-1, 0, seps[i])
				}
			}
			kids, above = append(kids, k), append(above, seps[0])
			level, seps = level[m:], seps[m:]
		}
		level, seps = kids, above
	}
	if len(level) > 0 {
		t.root = level[0].node
	}
	return t
}

// leafBuilder makes leaves of keys that come in order.
type leafBuilder struct {
	leaves []kid
	next   node // of the next leaf, without a prefix; its memory is used again
}

// add adds a key that is greater than those before.
func (b *leafBuilder) add(key []byte, m Meta) {
	n := &b.next
	if i := len(n.ends); i > 0 && (i == maxLeafKeys || len(n.data)-i*commonPrefix(n.suffix(0), key) > maxLeafBytes) {
		b.end()
	}
	n.data = append(n.data, key...)
	mark := len(n.data)
	n.data = appendMeta(n.data, m)
	n.data = append(n.data, byte(len(n.data)-mark))
	n.ends = append(n.ends, uint32(len(n.data)))
}

// end makes a leaf of what has been added since the last one.
func (b *leafBuilder) end() {
	if n := &b.next; len(n.ends) > 0 {
		b.leaves = append(b.leaves, kid{new(tree).newLeaf(n, 0, len(n.ends)), len(n.ends)})
		n.data, n.ends = n.data[:0], n.ends[:0]
	}
}
