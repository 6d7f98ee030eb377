package watch

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/cofferkv/coffer/mvcc"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Event is an event in wire encoding. Its parts, one after the other, are an
// element of WatchResponse.events, with tag and length: what stands before the
// key-value, the key-value as the store keeps it, and the previous version of
// the key. It is shared by all watchers and must not be modified.
type Event [3][]byte

// Size returns the size of the event in bytes.
func (e *Event) Size() int { return len(e[0]) + len(e[1]) + len(e[2]) }

// The tags of fields, each of one byte.
const (
	eventsTag = 11<<3 | byte(protowire.BytesType) // of WatchResponse.events
	typeTag   = 1<<3 | byte(protowire.VarintType) // of Event.type
	kvTag     = 2<<3 | byte(protowire.BytesType)  // of Event.kv
	prevKVTag = 3<<3 | byte(protowire.BytesType)  // of Event.prev_kv
)

// encode makes an event of a change and the previous version of its key, which
// may be nil.
func encode(c *mvcc.Event, prev *mvccpb.KeyValue) (*Event, error) {
	e := &Event{1: c.Raw}
	if prev != nil {
		n := proto.Size(prev)
		b := append(make([]byte, 0, 1+protowire.SizeBytes(n)), prevKVTag)
		b = protowire.AppendVarint(b, uint64(n))
		b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, prev)
		if err != nil {
			return nil, err
		}
		e[2] = b
	}
	size := 1 + protowire.SizeBytes(len(c.Raw)) + len(e[2])
	if c.Type != mvccpb.Event_PUT {
		size += 1 + protowire.SizeVarint(uint64(c.Type))
	}
	b := append(make([]byte, 0, 16), eventsTag)
	b = protowire.AppendVarint(b, uint64(size))
	if c.Type != mvccpb.Event_PUT {
		b = append(b, typeTag)
		b = protowire.AppendVarint(b, uint64(c.Type))
	}
	b = append(b, kvTag)
	e[0] = protowire.AppendVarint(b, uint64(len(c.Raw)))
	return e, nil
}

// event is one change, shared by all watchers that are told of it. It is
// encoded when the first of them needs it.
type event struct {
	*mvcc.Event
	rev int64

	plainOnce sync.Once
	plain     *Event

	full atomic.Pointer[Event] // unless the previous version is long
}

// eventOverhead is what an event takes in memory beside its key and value.
const eventOverhead = 256

// maxKeptPrev is how long a previous version may be for an event to keep it:
// what the hub remembers is bounded without, and of deletes, which are small,
// that would be many. A longer one is kept only while a delivery waits.
const maxKeptPrev = 2 * eventOverhead

func (e *event) size() int { return len(e.Raw) + eventOverhead }

// withoutPrev returns the event without the previous version of its key.
func (e *event) withoutPrev() *Event {
	e.plainOnce.Do(func() {
		e.plain, _ = encode(e.Event, nil) // cannot fail
	})
	return e.plain
}

// withPrev returns the event with the previous version of its key, if there
// was one and it has not been compacted. A key that a transaction deletes and
// creates again was there before, but as in etcd its creation does not show it.
func (e *event) withPrev(h *Hub) (*Event, error) {
	created := e.Type == mvccpb.PUT && e.KV.CreateRevision == e.KV.ModRevision
	if !e.HasPrev() || created {
		return e.withoutPrev(), nil
	}
	if full := e.full.Load(); full != nil {
		return full, nil
	}
	prev, err := h.prevKV(e.Event)
	if err != nil {
		return nil, err
	}
	full, err := encode(e.Event, prev)
	if err == nil && len(full[2]) <= maxKeptPrev && !e.full.CompareAndSwap(nil, full) {
		full = e.full.Load()
	}
	return full, err
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

// delivery is what one or more watchers are told of one batch. It is encoded
// once for all of them.
type delivery struct {
	events []*event // not empty
	bytes  int
	plain  encoding
	full   encoding
}

type encoding struct {
	once   sync.Once
	events []*Event
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

// encoded returns the events in wire encoding. They and the slice are shared.
func (d *delivery) encoded(h *Hub, prev bool) ([]*Event, error) {
	if !prev {
		d.plain.once.Do(func() {
			d.plain.events = make([]*Event, len(d.events))
			for i, e := range d.events {
				d.plain.events[i] = e.withoutPrev()
			}
		})
		return slices.Clip(d.plain.events), nil
	}
	d.full.once.Do(func() {
		events := make([]*Event, len(d.events))
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

// compacted returns the events without those previous versions that have been
// compacted since the events were encoded: whether another watcher was there
// before must not show.
func (d *delivery) compacted(compact int64) []*Event {
	events := slices.Clone(d.full.events)
	for i, e := range d.events {
		if e.rev <= compact {
			events[i] = e.withoutPrev()
		}
	}
	return events
}
