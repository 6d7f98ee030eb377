package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// Options configures Open.
type Options struct {
	FS            vfs.FS // through which every byte goes; required
	Dir           string // the store's directory, created if it does not exist; required
	CacheBytes    int64  // block cache, of which Pebble takes the room of its memtables; 0: 36 MiB
	MessageBytes  int    // cache of messages; 0: DefaultMessageBytes
	MemTableBytes uint64 // size at which a memtable is flushed; 0: 8 MiB
	Logger        *zap.Logger
	// Fatal is called when the storage engine cannot go on (a failed write to its manifest, a failed commit, a file that
	// does not open in a compaction), after the error was logged. It must not return. nil: the process exits with status 1.
	Fatal func(err error)

	tune func(*pebble.Options) // set by tests
}

// DB is an open store. Its methods may be called from any goroutine, but there is only one Batch at a time.
type DB struct {
	pebble   *pebble.DB
	engine   *engine
	log      *zap.Logger
	dir      string
	view     atomic.Pointer[View] // the last committed state
	written  atomic.Uint64        // bytes of all batches ever committed
	pinned   pins
	trees    remembered
	messages *messages
	replaced []Rev // versions that were replaced lately; the batch's own
	remover  remover
	hashes   hashes
	sizes    sizes
	batch    bool // there is a Batch

	closing   chan struct{}
	closeOnce sync.Once
}

// firstRevision is the revision of an empty store, and neverCompacted its compact revision, as in etcd.
const (
	firstRevision  = 1
	neverCompacted = -1
)

// Open opens the store in o.Dir, or creates an empty one at revision 1 there.
func Open(o Options) (*DB, error) {
	db, err := openEngine(o, false)
	if err != nil {
		return nil, err
	}
	return db.start()
}

// DefaultMessageBytes is the memory, outside of Go's heap, that the cache of messages takes unless told otherwise.
const DefaultMessageBytes = 120 << 20

func openEngine(o Options, create bool) (*DB, error) {
	e := newEngine(o)
	po := e.options(o)
	po.ErrorIfExists = create
	p, err := pebble.Open(o.Dir, po)
	if err != nil {
		return nil, fmt.Errorf("mvcc: open store in %s: %w", o.Dir, err)
	}
	if o.MessageBytes == 0 {
		o.MessageBytes = DefaultMessageBytes
	}
	m, err := newMessages(o.MessageBytes)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mvcc: open store in %s: %w", o.Dir, err), p.Close())
	}
	return &DB{pebble: p, engine: e, log: e.log, dir: o.Dir, messages: m, closing: make(chan struct{})}, nil
}

// start makes an opened store ready for use, or closes it.
func (db *DB) start() (*DB, error) {
	if err := db.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("mvcc: load store in %s: %w", db.dir, err), db.pebble.Close(), db.messages.close())
	}
	db.startRemover()
	reportMetrics(db)
	return db, nil
}

// load reads where the store stands and builds the index.
func (db *DB) load() error {
	rec, err := db.storeRecord(keyImporting)
	if err != nil {
		return err
	}
	if rec != nil {
		return errors.New("an import into it was interrupted: remove the directory and import again")
	}
	v := &View{db: db, revision: firstRevision, compact: neverCompacted}
	rec, err = db.storeRecord(keyApplied)
	if err != nil {
		return err
	}
	if rec != nil {
		a, err := decodeApplied(rec)
		if err != nil {
			return fmt.Errorf("applied record: %w", err)
		}
		v.revision, v.index, v.term = a.revision, a.index, a.term
		db.written.Store(a.written)
	}
	if v.compact, err = db.storeRevision(keyScheduled); err != nil {
		return err
	}
	finished, err := db.storeRevision(keyFinished)
	if err != nil {
		return err
	}
	if v.compact > v.revision || finished > v.compact {
		return fmt.Errorf("compaction finished at revision %d and scheduled at %d, but the current revision is %d",
			finished, v.compact, v.revision)
	}
	db.remover.finished.Store(finished)
	if v.tree, err = db.scan(v.revision); err != nil {
		return err
	}
	keysTotal.Set(float64(v.tree.len()))
	db.view.Store(v)
	return nil
}

// storeRecord returns a copy of one of the store's own records, nil if it is not there.
func (db *DB) storeRecord(key []byte) ([]byte, error) {
	v, closer, err := db.pebble.Get(appendMetaKey(nil, bucketStore, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", key, err)
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

func (db *DB) storeRevision(key []byte) (int64, error) {
	rec, err := db.storeRecord(key)
	switch {
	case err != nil:
		return 0, err
	case rec == nil:
		return neverCompacted, nil
	case len(rec) != 8:
		return 0, fmt.Errorf("record %s: %w", key, errRecord)
	}
	return int64(binary.BigEndian.Uint64(rec)), nil
}

// Close flushes what has been committed and closes the store. All views must have been closed.
func (db *DB) Close() error {
	err := ErrClosed
	db.closeOnce.Do(func() {
		close(db.closing)
		db.remover.wait()
		unreportMetrics(db)
		err = errors.Join(db.Flush(), db.pebble.Close(), db.messages.close())
		if err != nil {
			err = fmt.Errorf("mvcc: close store in %s: %w", db.dir, err)
		}
	})
	return err
}

// Flush makes everything committed before the call durable.
func (db *DB) Flush() error {
	if err := db.pebble.Flush(); err != nil {
		return fmt.Errorf("mvcc: flush store in %s: %w", db.dir, err)
	}
	return nil
}

// Applied returns the index and term of the last Raft entry whose effects are in the store; 0, 0 in a new store.
func (db *DB) Applied() (index, term uint64) {
	v := db.view.Load()
	return v.index, v.term
}

// DurableApplied returns the index of the last applied entry whose effects would survive a crash now; 0 if none would.
func (db *DB) DurableApplied() (uint64, error) {
	a, err := db.durable()
	return a.index, err
}

// durable returns the applied record that would be found after a crash.
func (db *DB) durable() (applied, error) {
	k := appendMetaKey(nil, bucketStore, keyApplied)
	it, err := db.pebble.NewIter(&pebble.IterOptions{
		LowerBound: k, UpperBound: comparer.ImmediateSuccessor(nil, k), OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return applied{}, fmt.Errorf("mvcc: read durable state in %s: %w", db.dir, err)
	}
	defer it.Close()
	if !it.First() {
		if err := it.Error(); err != nil {
			return applied{}, fmt.Errorf("mvcc: read durable state in %s: %w", db.dir, err)
		}
		return applied{}, nil
	}
	rec, err := it.ValueAndErr()
	if err != nil {
		return applied{}, fmt.Errorf("mvcc: read durable state in %s: %w", db.dir, err)
	}
	return decodeApplied(rec)
}

// ManifestName returns the base name of the manifest that the storage engine writes now.
func (db *DB) ManifestName() string {
	if name := db.engine.manifest.Load(); name != nil {
		return *name
	}
	return ""
}

// RangeMeta calls fn for every record of a bucket, in the order of keys, as committed. Key and value are valid only
// during the call.
func (db *DB) RangeMeta(bucket string, fn func(key, value []byte) error) error {
	lower := appendMetaKey(nil, bucket, nil)
	lower = lower[:len(lower)-1] // space, bucket, zero byte: what all keys of the bucket begin with
	upper := append(append([]byte{}, lower[:len(lower)-1]...), 1, 0)
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("mvcc: read records of %s: %w", bucket, err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("mvcc: read records of %s: %w", bucket, err)
		}
		k := it.Key()
		if err := fn(k[len(lower):len(k)-1], v); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: read records of %s: %w", bucket, err)
	}
	return nil
}
