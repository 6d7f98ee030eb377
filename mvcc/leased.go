package mvcc

// Leased calls fn for every key that is attached to a lease at the view's revision, in the order of keys. The key is
// valid only during the call.
func (v *View) Leased(fn func(key []byte, lease int64)) {
	for c := v.tree.seek(nil, nil); c.valid(); c.next() {
		if m := c.meta(); m.Lease != 0 {
			fn(c.key(), m.Lease)
		}
	}
}
