package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// EventsOptions narrows View.Events.
type EventsOptions struct {
	Match    func(key []byte) bool // nil: all keys; must not keep or change key
	MaxBytes int                   // stop after the revision with which the events reached so many bytes; 0: never
}

// Events returns the events of revisions from to to, both included, as far as the view has them. Revisions without a
// matching event are left out. Next is the revision at which to go on: to+1 or the view's revision+1, whichever is
// less, or less than that if MaxBytes stopped it. The errors are ErrCompacted if from is below the compact revision, that
// of ctx, or what the disk said.
func (v *View) Events(ctx context.Context, from, to int64, o EventsOptions) (events []Events, next int64, err error) {
	if from < v.compact {
		return nil, 0, ErrCompacted
	}
	from, to = max(from, 0), min(to, v.revision)
	if from > to {
		return nil, max(from, to+1), nil
	}
	it, err := v.db.changesFrom(Rev{Main: from}, to)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, it.close()) }()
	size := 0
	// cur is the revision at hand. Changes stand at their number in it; those that do not match or were compacted have no
	// KV.
	var cur Events
	emit := func() error {
		if cur.Revision == v.compact {
			// Of the compact revision, what a later change of the same transaction replaced is gone, removed yet or not.
			for i := range cur.Events {
				if r := cur.Events[i].replaced; r.Main == cur.Revision {
					cur.Events[r.Sub].KV = nil
				}
			}
		}
		for i := range cur.Events {
			e := &cur.Events[i]
			if e.KV == nil {
				continue
			}
			if err := v.db.fillEvent(e, Rev{cur.Revision, int32(i)}); err != nil {
				return err
			}
			size += len(e.Raw)
		}
		cur.Events = slices.DeleteFunc(cur.Events, func(e Event) bool { return e.KV == nil })
		if len(cur.Events) > 0 {
			events = append(events, cur)
		}
		return nil
	}
	for n := 0; it.next(); n++ {
		if n&255 == 0 && ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		rev, c := it.rev, it.change
		if rev.Main != cur.Revision {
			if err := emit(); err != nil {
				return nil, 0, err
			}
			if o.MaxBytes > 0 && size >= o.MaxBytes {
				return events, rev.Main, nil
			}
			cur = Events{Revision: rev.Main}
		}
		for len(cur.Events) < int(rev.Sub) {
			cur.Events = append(cur.Events, Event{})
		}
		var e Event
		if o.Match == nil || o.Match(c.key) {
			e = Event{replaced: c.prev, KV: &mvccpb.KeyValue{Key: bytes.Clone(c.key), ModRevision: rev.Main}}
			if c.tombstone {
				e.Type = mvccpb.DELETE
			}
			e.prev = prevOf(cur.Events, e.KV.Key, e.replaced, rev.Main)
		}
		cur.Events = append(cur.Events, e)
	}
	if it.err != nil {
		return nil, 0, it.err
	}
	if err := emit(); err != nil {
		return nil, 0, err
	}
	return events, to + 1, nil
}

// fillEvent completes an event of which type, key and revision are known.
func (db *DB) fillEvent(e *Event, rev Rev) error {
	if e.Type == mvccpb.DELETE {
		e.Raw = appendMessage(nil, e.KV.Key, nil, Meta{Mod: rev})
		return nil
	}
	raw, _, err := db.message(e.KV.Key, rev)
	if err == nil {
		err = decodeMessage(raw, e.KV)
	}
	if err != nil {
		return db.readError(rev, err)
	}
	e.Raw = raw
	return nil
}

// PrevKV returns the key's message before the revision of ev, or nil if it did not exist then or that version has been
// compacted.
func (v *View) PrevKV(ev *Event) (*mvccpb.KeyValue, error) {
	if !ev.HasPrev() || ev.KV.ModRevision-1 < v.compact {
		return nil, nil
	}
	kv := new(mvccpb.KeyValue)
	raw, _, err := v.db.message(ev.KV.Key, ev.prev)
	if err == nil {
		err = decodeMessage(raw, kv)
	}
	if err != nil {
		return nil, v.db.readError(ev.prev, err)
	}
	return kv, nil
}

// changeIter walks the changes of a range of revisions in their order.
type changeIter struct {
	it      *pebble.Iterator
	started bool
	rev     Rev
	change  change // its key is valid until the next call of next
	err     error
}

// changesFrom returns an iterator over the changes from from on up to revision to, which is included.
func (db *DB) changesFrom(from Rev, to int64) (*changeIter, error) {
	it, err := db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: appendRevisionKey(nil, from),
		UpperBound: appendRevisionKey(nil, Rev{Main: to + 1}),
	})
	if err != nil {
		return nil, fmt.Errorf("mvcc: read changes of revisions %d to %d: %w", from.Main, to, err)
	}
	return &changeIter{it: it}, nil
}

// next moves to the next change, and reports whether there is one.
func (i *changeIter) next() bool {
	var valid bool
	if i.started {
		valid = i.it.Next()
	} else {
		i.started, valid = true, i.it.First()
	}
	if !valid {
		i.err = i.it.Error()
		return false
	}
	if i.rev, i.err = decodeRevisionKey(i.it.Key()); i.err != nil {
		return false
	}
	v, err := i.it.ValueAndErr()
	if err == nil {
		i.change, err = decodeChange(v, i.rev.Main)
	}
	if err != nil {
		i.err = fmt.Errorf("mvcc: read change %d of revision %d: %w", i.rev.Sub, i.rev.Main, err)
	}
	return err == nil
}

func (i *changeIter) close() error { return i.it.Close() }
