package mvcc

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestASummarySaysWhatExists(t *testing.T) {
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "db"})
	require.NoError(t, err)
	defer db.Close()
	index := uint64(0)
	commit := func(change func(b *Batch)) {
		b := db.Begin()
		change(b)
		index++
		_, err := b.Commit(index, 1)
		require.NoError(t, err)
	}
	summary := func() (Summary, map[string]string) {
		var stream bytes.Buffer
		require.NoError(t, db.Export(context.Background(), &stream))
		records := map[string]string{}
		s, err := Summarize(&stream, "bucket", func(k, v []byte) { records[string(k)] = string(v) })
		require.NoError(t, err)
		return s, records
	}
	empty, _ := summary()
	require.Equal(t, int64(1), empty.Revision)
	require.Zero(t, empty.Keys)

	for _, keys := range [][]string{{"a", "a\x00", "b"}, {"a", "c"}, {"b"}} {
		commit(func(b *Batch) {
			tx := b.Txn()
			for _, k := range keys {
				tx.Put([]byte(k), nil, 0)
			}
			tx.End()
			b.SetMeta("bucket", []byte("key"), []byte(keys[0]))
			b.SetMeta("bucket2", []byte("other"), nil)
		})
	}
	commit(func(b *Batch) { tx := b.Txn(); tx.DeleteRange([]byte("b"), nil); tx.End() })
	s, records := summary()
	require.Equal(t, int64(5), s.Revision)
	require.Equal(t, 3, s.Keys)
	require.Equal(t, map[string]string{"key": "b"}, records)
	again, _ := summary()
	require.Equal(t, s, again)

	_, err = Summarize(bytes.NewReader([]byte("no stream at all")), "bucket", nil)
	require.ErrorIs(t, err, errStream)
}
