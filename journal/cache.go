package journal

import "go.etcd.io/raft/v3/raftpb"

// A cache holds the newest entries, as raft handed them over, up to a number of bytes. Entries are never changed
// in it, so they are shared with raft.
type cache struct {
	bound int             // bytes of data
	ents  []*raftpb.Entry // indexes follow each other, the last one is the last of the log
	bytes int
}

// first returns the index of the oldest entry held; beyond every index if there is none.
func (c *cache) first() uint64 {
	if len(c.ents) == 0 {
		return ^uint64(0)
	}
	return c.ents[0].GetIndex()
}

// slice returns entries lo to hi-1, all of which are held. The caller must not write to the slice and must copy
// it before the lock that protects c is released.
func (c *cache) slice(lo, hi uint64) []*raftpb.Entry {
	f := c.first()
	return c.ents[lo-f : hi-f]
}

// add appends ents, after dropping what is held from the first one's index on.
func (c *cache) add(ents []*raftpb.Entry) {
	c.truncate(ents[0].GetIndex())
	for _, e := range ents {
		c.bytes += memory(e)
	}
	c.ents = append(c.ents, ents...)
	n := 0
	for ; c.bytes > c.bound && n < len(c.ents); n++ {
		c.bytes -= memory(c.ents[n])
	}
	c.drop(n)
}

// truncate drops the entries from index i on.
func (c *cache) truncate(i uint64) {
	f := c.first()
	if len(c.ents) == 0 || i >= f+uint64(len(c.ents)) {
		return
	}
	keep := uint64(0)
	if i > f {
		keep = i - f
	}
	for _, e := range c.ents[keep:] {
		c.bytes -= memory(e)
	}
	clear(c.ents[keep:])
	c.ents = c.ents[:keep]
}

// raise drops the entries up to index i.
func (c *cache) raise(i uint64) {
	n := 0
	for ; n < len(c.ents) && c.ents[n].GetIndex() <= i; n++ {
		c.bytes -= memory(c.ents[n])
	}
	c.drop(n)
}

// drop forgets the n oldest entries, whose bytes are already taken off.
func (c *cache) drop(n int) {
	clear(c.ents[:n])
	c.ents = c.ents[n:]
}

// memory returns about how many bytes of memory e keeps alive.
func memory(e *raftpb.Entry) int { return len(e.Data) + 128 }

// wireSize returns the size of e as a protobuf message, which is what raft counts.
func wireSize(e *raftpb.Entry) uint64 {
	n := 0
	if e.Type != nil {
		n += 1 + uvarintLen(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + uvarintLen(*e.Term)
	}
	if e.Index != nil {
		n += 1 + uvarintLen(*e.Index)
	}
	if e.Data != nil {
		n += 1 + uvarintLen(uint64(len(e.Data))) + len(e.Data)
	}
	return uint64(n)
}
