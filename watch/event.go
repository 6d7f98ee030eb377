package watch

import (
	"slices"
	"sort"
	"sync"

	"github.com/cofferkv/coffer/mvcc"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// event is one change, shared by all watchers that are told of it. Its
// messages are made when the first of them needs them.
type event struct {
	*mvcc.Event
	rev int64

	plainOnce sync.Once
	plain     *mvccpb.Event

	fullOnce sync.Once
	full     *mvccpb.Event
	fullErr  error
}

// eventOverhead is what an event takes in memory beside its key and value.
const eventOverhead = 256

func (e *event) size() int { return len(e.Raw) + eventOverhead }

// message returns the event without the previous version of its key.
func (e *event) message() *mvccpb.Event {
	e.plainOnce.Do(func() {
		e.plain = &mvccpb.Event{Type: e.Type, Kv: e.KV}
	})
	return e.plain
}

// withPrev returns the event with the previous version of its key, if there
// was one and it has not been compacted. A key that a transaction deletes and
// creates again was there before, but as in etcd its creation does not show it.
func (e *event) withPrev(h *Hub) (*mvccpb.Event, error) {
	created := e.Type == mvccpb.PUT && e.KV.CreateRevision == e.KV.ModRevision
	if !e.HasPrev() || created {
		return e.message(), nil
	}
	e.fullOnce.Do(func() {
		prev, err := h.prevKV(e.Event)
		if err != nil {
			e.fullErr = err
			return
		}
		e.full = &mvccpb.Event{Type: e.Type, Kv: e.KV, PrevKv: prev}
	})
	return e.full, e.fullErr
}

// batch is a run of events in the order of revisions: what was committed
// together, or what was read from the store in one piece.
type batch struct {
	events []event
	bytes  int
}

func newBatch(revisions []mvcc.Events) *batch {
	n := 0
	for i := range revisions {
		n += len(revisions[i].Events)
	}
	b := &batch{events: make([]event, n)}
	n = 0
	for i := range revisions {
		r := &revisions[i]
		for j := range r.Events {
			e := &b.events[n]
			e.Event, e.rev = &r.Events[j], r.Revision
			b.bytes += e.size()
			n++
		}
	}
	return b
}

// delivery is what one or more watchers are told of one batch. The messages
// are made once for all of them.
type delivery struct {
	events []*event // not empty
	bytes  int
	plain  messages
	full   messages
}

type messages struct {
	once   sync.Once
	events []*mvccpb.Event
	err    error
}

func newDelivery(events []*event) *delivery {
	d := &delivery{events: events}
	for _, e := range events {
		d.bytes += e.size()
	}
	return d
}

// first returns the revision of the first event.
func (d *delivery) first() int64 { return d.events[0].rev }

// last returns the revision of the last event.
func (d *delivery) last() int64 { return d.events[len(d.events)-1].rev }

// from returns what of d is of revision rev or later: d itself if that is all
// of it, nil if it is nothing.
func (d *delivery) from(rev int64) *delivery {
	if d.first() >= rev {
		return d
	}
	i := sort.Search(len(d.events), func(i int) bool { return d.events[i].rev >= rev })
	if i == len(d.events) {
		return nil
	}
	return newDelivery(d.events[i:])
}

// messages returns the events as messages, which are shared and must not be
// modified.
func (d *delivery) messages(h *Hub, prev bool) ([]*mvccpb.Event, error) {
	if !prev {
		d.plain.once.Do(func() {
			d.plain.events = make([]*mvccpb.Event, len(d.events))
			for i, e := range d.events {
				d.plain.events[i] = e.message()
			}
		})
		return slices.Clip(d.plain.events), nil
	}
	d.full.once.Do(func() {
		events := make([]*mvccpb.Event, len(d.events))
		for i, e := range d.events {
			if events[i], d.full.err = e.withPrev(h); d.full.err != nil {
				return
			}
		}
		d.full.events = events
	})
	if _, compact := h.committed(); d.full.err == nil && d.first() <= compact {
		return d.compacted(compact), nil
	}
	return slices.Clip(d.full.events), d.full.err
}

// compacted returns the messages without those previous versions that have been
// compacted since the messages were made: whether another watcher was there
// before must not show.
func (d *delivery) compacted(compact int64) []*mvccpb.Event {
	events := slices.Clone(d.full.events)
	for i, e := range d.events {
		if e.rev <= compact {
			events[i] = e.message()
		}
	}
	return events
}
