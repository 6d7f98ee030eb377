package mvcc

// joinTrees makes one tree of trees of which each holds greater keys than the one before.
func joinTrees(parts []tree) tree {
	if len(parts) == 1 {
		return parts[0]
	}
	t := tree{}.edit()
	var level []kid
	for _, p := range parts {
		level = appendLeaves(level, p.root)
	}
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

func appendLeaves(leaves []kid, n *node) []kid {
	if n == nil {
		return leaves
	}
	if n.kids == nil {
		return append(leaves, kid{n, len(n.ends)})
	}
	for _, k := range n.kids {
		leaves = appendLeaves(leaves, k.node)
	}
	return leaves
}
