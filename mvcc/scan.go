package mvcc

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// scan builds the index of the current keys from the newest version of each.
func (db *DB) scan(revision int64) (t tree, err error) {
	o := keyBounds(nil, nil)
	it, err := db.pebble.NewIter(&o)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	t = t.edit()
	var kv mvccpb.KeyValue
	for valid := it.First(); valid; valid = it.NextPrefix() {
		key, rev, err := decodeVersionKey(it.Key())
		if err != nil {
			return t, err
		}
		if rev.Main > revision {
			return t, fmt.Errorf("a key has a version of revision %d, but the current revision is %d", rev.Main, revision)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return t, err
		}
		if len(v) == 0 {
			continue // deleted
		}
		kv.Reset()
		if err := decodeMessage(v, &kv); err != nil {
			return t, fmt.Errorf("message of revision %d: %w", rev.Main, err)
		}
		t.set(key, Meta{Create: kv.CreateRevision, Mod: rev, Version: kv.Version, Lease: kv.Lease})
	}
	return t, it.Error()
}
