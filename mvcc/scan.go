package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
)

// scan builds the index of the current keys from the newest version of each, parts of the key space at a time.
func (db *DB) scan(revision int64) (tree, error) {
	start := time.Now()
	procs := runtime.GOMAXPROCS(0)
	splits, err := db.splitKeys(4 * procs) // some parts take longer than others
	if err != nil {
		return tree{}, err
	}
	bounds := append(append([][]byte{nil}, splits...), nil)
	parts := make([][]kid, len(bounds)-1)
	var g errgroup.Group
	g.SetLimit(procs)
	for i := range parts {
		g.Go(func() (err error) {
			parts[i], err = db.scanPart(bounds[i], bounds[i+1], revision)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return tree{}, err
	}
	t := joinLeaves(slices.Concat(parts...))
	scanSeconds.Set(time.Since(start).Seconds())
	return t, nil
}

// scanPart makes the leaves of the index for the keys in [from, end); an empty end is no bound.
func (db *DB) scanPart(from, end []byte, revision int64) (leaves []kid, err error) {
	o := keyBounds(from, end)
	it, err := db.pebble.NewIter(&o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var b leafBuilder
	var kv mvccpb.KeyValue
	for valid := it.First(); valid; valid = it.NextPrefix() {
		key, rev, err := decodeVersionKey(it.Key())
		if err != nil {
			return nil, err
		}
		if rev.Main > revision {
			return nil, fmt.Errorf("a key has a version of revision %d, but the current revision is %d", rev.Main, revision)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		if len(v) == 0 {
			continue // deleted
		}
		kv.CreateRevision, kv.Version, kv.Lease = 0, 0, 0
		if err := decodeMessage(v, &kv); err != nil {
			return nil, fmt.Errorf("message of revision %d: %w", rev.Main, err)
		}
		b.add(key, Meta{Create: kv.CreateRevision, Mod: rev, Version: kv.Version, Lease: kv.Lease})
	}
	b.end()
	return b.leaves, it.Error()
}

// splitKeys returns up to n-1 user keys that divide the key space into parts of about the same size on the disk.
func (db *DB) splitKeys(n int) ([][]byte, error) {
	levels, err := db.pebble.SSTables()
	if err != nil {
		return nil, err
	}
	type table struct {
		key  []byte
		size uint64
	}
	var tables []table
	var total uint64
	for _, level := range levels {
		for _, t := range level {
			if key, _, err := decodeVersionKey(t.Smallest.UserKey); err == nil {
				tables = append(tables, table{key, t.Size})
				total += t.Size
			}
		}
	}
	slices.SortFunc(tables, func(a, b table) int { return bytes.Compare(a.key, b.key) })
	var splits [][]byte
	var sum uint64
	for i, t := range tables {
		if i > 0 && len(splits) < n-1 && sum >= total*uint64(len(splits)+1)/uint64(n) &&
			!bytes.Equal(t.key, tables[i-1].key) {
			splits = append(splits, bytes.Clone(t.key))
		}
		sum += t.size
	}
	return splits, nil
}
