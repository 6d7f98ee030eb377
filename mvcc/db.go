package mvcc

import (
	"context"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// Options configures Open.
type Options struct {
	FS            vfs.FS // through which every byte goes; required
	Dir           string // the store's directory, created if it does not exist; required
	CacheBytes    int64  // block cache; 0: 128 MiB
	MemTableBytes uint64 // size at which a memtable is flushed; 0: 64 MiB
	Logger        *zap.Logger
	// Fatal is called when the storage engine cannot go on (a failed write to its manifest, a failed commit), after the
	// error was logged. It must not return. nil: the process exits with status 1.
	Fatal func(err error)
}

// DB is an open store. All methods but Begin and those of Batch and Txn may be called from any goroutine.
type DB struct{}

// Open opens the store in o.Dir, or creates an empty one at revision 1 there.
func Open(o Options) (*DB, error) { panic("mvcc: not written yet") }

// Close flushes what has been committed and closes the store. Views must have been closed before.
func (db *DB) Close() error { panic("mvcc: not written yet") }

// Applied returns the index and term of the last Raft entry whose effects are in the store; 0, 0 in a new store.
func (db *DB) Applied() (index, term uint64) { panic("mvcc: not written yet") }

// DurableApplied returns the index of the last applied entry whose effects would survive a crash now.
func (db *DB) DurableApplied() (uint64, error) { panic("mvcc: not written yet") }

// Flush makes everything committed before the call durable.
func (db *DB) Flush() error { panic("mvcc: not written yet") }

// Size returns the bytes that the store takes on disk and in memtables, and how many of these are in use, that is
// without files that were replaced and wait for their removal.
func (db *DB) Size() (total, inUse int64) { panic("mvcc: not written yet") }

// ManifestName returns the base name of the manifest that the storage engine writes now.
func (db *DB) ManifestName() string { panic("mvcc: not written yet") }

// RangeMeta calls fn for every record of a bucket, in the order of keys, as committed. Key and value are valid only
// during the call.
func (db *DB) RangeMeta(bucket string, fn func(key, value []byte) error) error {
	panic("mvcc: not written yet")
}

// WaitCompacted returns when all versions that the compaction to rev made superfluous have been removed.
func (db *DB) WaitCompacted(ctx context.Context, rev int64) error { panic("mvcc: not written yet") }

// Reclaim returns when the space of removed versions has been given back to the file system.
func (db *DB) Reclaim(ctx context.Context) error { panic("mvcc: not written yet") }

// HashKV returns etcd's hash of the history up to rev (0: the current revision), the compact revision it was computed
// with (-1: never compacted), the revision it covers and the current revision.
func (db *DB) HashKV(ctx context.Context, rev int64) (KeyValueHash, error) {
	panic("mvcc: not written yet")
}

// KeyValueHash is the answer of HashKV.
type KeyValueHash struct {
	Hash            uint32
	CompactRevision int64 // -1: never compacted
	Revision        int64 // that the hash covers
	Current         int64 // current revision when the hash was asked for
}

// Hash returns a checksum of the whole current content, meta records included, and the revision it belongs to.
func (db *DB) Hash(ctx context.Context) (hash uint32, revision int64, err error) {
	panic("mvcc: not written yet")
}

// Export writes the whole content as a stream that Import reads.
func (db *DB) Export(ctx context.Context, w io.Writer) error { panic("mvcc: not written yet") }

// Import creates a store from a stream that Export wrote. The directory must not hold a store yet; it is left unusable if
// Import fails.
func Import(ctx context.Context, o Options, r io.Reader) (*DB, error) {
	panic("mvcc: not written yet")
}
