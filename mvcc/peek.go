package mvcc

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// DurableAppliedIn returns what DurableApplied would return for the store in o.Dir once it is opened. Nothing in the
// directory is changed by it, whereas Open begins a new MANIFEST and removes what the one before it made obsolete.
func DurableAppliedIn(o Options) (index uint64, err error) {
	e := newEngine(o)
	po := e.options(o)
	po.ReadOnly = true
	p, err := pebble.Open(o.Dir, po)
	if err != nil {
		return 0, fmt.Errorf("mvcc: read store in %s: %w", o.Dir, err)
	}
	db := &DB{pebble: p, engine: e, log: e.log, dir: o.Dir}
	index, err = db.DurableApplied()
	return index, errors.Join(err, p.Close())
}
