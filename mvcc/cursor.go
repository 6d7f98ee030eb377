package mvcc

import "bytes"

// cursor walks the keys of a tree in order.
type cursor struct {
	path  [maxDepth]step
	depth int // path[:depth] leads from the root to a leaf; 0: at the end
	end   []byte
	buf   []byte
}

type step struct {
	n *node
	i int
}

// seek returns a cursor at the first key in [from, end); an empty end is no bound.
func (t tree) seek(from, end []byte) cursor {
	c := cursor{end: end}
	n := t.root
	if n == nil {
		return c
	}
	for n.kids != nil {
		i := n.child(from)
		c.path[c.depth] = step{n, i}
		c.depth++
		n = n.kids[i].node
	}
	i, _ := n.find(from)
	c.path[c.depth] = step{n, i}
	c.depth++
	if i == len(n.ends) {
		c.ascend()
	}
	c.load()
	return c
}

// valid reports whether the cursor is at a key.
func (c *cursor) valid() bool { return c.depth > 0 }

// key returns the key, valid until the cursor moves.
func (c *cursor) key() []byte { return c.buf }

func (c *cursor) meta() Meta {
	s := &c.path[c.depth-1]
	return s.n.meta(s.i)
}

// next moves to the next key.
func (c *cursor) next() {
	s := &c.path[c.depth-1]
	s.i++
	if s.i == len(s.n.ends) {
		c.ascend()
	}
	c.load()
}

// ascend moves from the end of a leaf to the beginning of the next one.
func (c *cursor) ascend() {
	c.depth--
	for c.depth > 0 {
		s := &c.path[c.depth-1]
		if s.i+1 < len(s.n.kids) {
			s.i++
			n := s.n.kids[s.i].node
			for n.kids != nil {
				c.path[c.depth] = step{n, 0}
				c.depth++
				n = n.kids[0].node
			}
			c.path[c.depth] = step{n, 0}
			c.depth++
			return
		}
		c.depth--
	}
}

// load takes the key at the new place, or ends the walk there.
func (c *cursor) load() {
	if c.depth == 0 {
		return
	}
	s := &c.path[c.depth-1]
	c.buf = append(append(c.buf[:0], s.n.prefix...), s.n.suffix(s.i)...)
	if len(c.end) > 0 && bytes.Compare(c.buf, c.end) >= 0 {
		c.depth = 0
	}
}
