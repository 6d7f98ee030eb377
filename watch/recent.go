package watch

import "sort"

// recent remembers the last published batches, so that a watcher that lags a
// little need not go to the store.
type recent struct {
	from    int64    // every event of this revision or later is remembered
	batches []*batch // not empty ones, in order
	bytes   int
}

// add remembers a batch and forgets old ones until at most limit bytes are
// left.
func (r *recent) add(b *batch, limit int) {
	r.batches = append(r.batches, b)
	r.bytes += b.bytes
	drop := 0
	for r.bytes > limit {
		old := r.batches[drop]
		r.bytes -= old.bytes
		r.from = old.events[len(old.events)-1].rev + 1
		r.batches[drop] = nil
		drop++
	}
	r.batches = r.batches[drop:]
}

// since returns batches that hold all events of the revisions from rev to
// upTo. It stops after the batch with which they reached limit bytes; else
// upTo is last, the last published revision. ok is false if it does not
// remember that far back.
func (r *recent) since(rev, last int64, limit int) (batches []*batch, upTo int64, ok bool) {
	if rev < r.from {
		return nil, 0, false
	}
	i := sort.Search(len(r.batches), func(i int) bool {
		events := r.batches[i].events
		return events[len(events)-1].rev >= rev
	})
	bytes := 0
	for j, b := range r.batches[i:] {
		if bytes += b.bytes; bytes >= limit && i+j+1 < len(r.batches) {
			batches = append(batches, r.batches[i:i+j+1]...)
			return batches, b.events[len(b.events)-1].rev, true
		}
	}
	return append(batches, r.batches[i:]...), last, true
}
