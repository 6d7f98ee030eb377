package lease

import "container/heap"

// queue is a heap of leases by a time. A lease remembers its place in each
// queue, so that it can be moved and removed.
type queue struct {
	which int // index into lease.place
	items []queued
}

type queued struct {
	at    int64 // nanoseconds of the lessor's clock
	lease *lease
}

// The queues of a lessor.
const (
	expiryQueue = iota
	checkpointQueue
	numQueues
)

// set puts l into the queue at a time, or moves it there.
func (q *queue) set(l *lease, at int64) {
	if i := l.place[q.which]; i > 0 {
		q.items[i-1].at = at
		heap.Fix(q, i-1)
		return
	}
	heap.Push(q, queued{at, l})
}

// remove takes l out of the queue if it is in it.
func (q *queue) remove(l *lease) {
	if i := l.place[q.which]; i > 0 {
		heap.Remove(q, i-1)
	}
}

// at returns the time of a lease that is in the queue.
func (q *queue) at(l *lease) int64 { return q.items[l.place[q.which]-1].at }

// clear empties the queue.
func (q *queue) clear() {
	for _, it := range q.items {
		it.lease.place[q.which] = 0
	}
	q.items = nil
}

// first returns the earliest lease if its time is not after now, else nil.
func (q *queue) first(now int64) *lease {
	if len(q.items) == 0 || q.items[0].at > now {
		return nil
	}
	return q.items[0].lease
}

// Len, Less, Swap, Push and Pop implement heap.Interface.

func (q *queue) Len() int { return len(q.items) }

func (q *queue) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	return a.at < b.at || a.at == b.at && a.lease.id < b.lease.id
}

func (q *queue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].lease.place[q.which] = i + 1
	q.items[j].lease.place[q.which] = j + 1
}

func (q *queue) Push(x any) {
	it := x.(queued)
	q.items = append(q.items, it)
	it.lease.place[q.which] = len(q.items)
}

func (q *queue) Pop() any {
	last := len(q.items) - 1
	it := q.items[last]
	q.items[last] = queued{}
	q.items = q.items[:last]
	it.lease.place[q.which] = 0
	return it
}
