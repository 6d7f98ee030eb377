package mvcc

import (
	"fmt"
	"os"
	"path"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/sstable/colblk"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

const (
	// formatVersion is the storage engine's format. It only ever goes up, and a store that was opened with a higher one
	// cannot be opened by an older binary: so it is pinned, and raised on purpose only.
	formatVersion = pebble.FormatTableFormatV6

	// Without cgo the block cache and the memtables lie on Go's heap, which needs room for garbage in proportion to
	// them. The cache of messages in front of them does not. So they are small: what is read again is mostly found
	// there, and a memtable that is flushed soon leaves little to be replayed after a crash. Pebble takes the room of its
	// memtables, two most of the time, out of the cache: as large as these alone it would hold no block at all.
	defaultCacheBytes    = 36 << 20
	defaultMemTableBytes = 8 << 20
	blockBytes           = 8 << 10
)

// engine is what the storage engine tells about itself while it runs.
type engine struct {
	log      *zap.Logger
	dir      string
	fatal    func(error)
	manifest atomic.Pointer[string]
	changed  atomic.Bool // the set of tables or of memtables has changed
}

func newEngine(o Options) *engine {
	e := &engine{log: o.Logger, dir: o.Dir, fatal: o.Fatal}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	if e.fatal == nil {
		e.fatal = func(error) { os.Exit(1) }
	}
	e.changed.Store(true)
	return e
}

// die ends the process for a failure after which the engine cannot go on.
func (e *engine) die(err error) {
	e.log.Error("storage engine failed; what was acknowledged is safe in the journal: repair the disk and start again",
		zap.String("dir", e.dir), zap.Error(err))
	e.fatal(err)
	panic(err) // fatal must not return
}

// Infof, Errorf and Fatalf make engine the storage engine's logger. Its messages hold no keys: FormatKey hides them.
func (e *engine) Infof(format string, args ...any) {
	if e.log.Core().Enabled(zap.DebugLevel) {
		e.log.Debug("storage engine", zap.String("message", fmt.Sprintf(format, args...)))
	}
}

func (e *engine) Errorf(format string, args ...any) {
	e.log.Error("storage engine", zap.String("message", fmt.Sprintf(format, args...)))
}

func (e *engine) Fatalf(format string, args ...any) {
	err := engineError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err.cause = cause
		}
	}
	e.die(err)
}

// engineError is what the engine says before it dies, with the error that it names.
type engineError struct {
	text  string
	cause error
}

func (e engineError) Error() string { return e.text }
func (e engineError) Unwrap() error { return e.cause }

// backgroundError decides what a failed flush or compaction means. The engine tries again: that helps when the disk is
// full, and space is made. A disk that fails otherwise, or a file that does not open, will not heal: writes would
// stand still, or the damage go unseen, while the other members could take over.
func (e *engine) backgroundError(err error) {
	if vfs.IsNoSpaceError(err) {
		e.log.Warn("storage engine found the disk full and will try again", zap.String("dir", e.dir), zap.Error(err))
		return
	}
	e.die(fmt.Errorf("flush or compaction in %s: %w", e.dir, err))
}

func (e *engine) options(o Options) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTableBytes
	}
	schema := colblk.DefaultKeySchema(comparer, 16)
	p := &pebble.Options{
		FS:                          sequentialFS{o.FS},
		Comparer:                    comparer,
		KeySchema:                   schema.Name,
		KeySchemas:                  sstable.MakeKeySchemas(&schema),
		FormatMajorVersion:          formatVersion,
		DisableWAL:                  true,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		// Tables from small memtables are merged several at a time, and into one level as long as the store is small:
		// with less of either, random updates rewrite the lowest level half as often again.
		L0CompactionThreshold:      8,
		L0StopWritesThreshold:      1000,
		LBaseMaxBytes:              128 << 20,
		MaxManifestFileSize:        16 << 20,
		MaxOpenFiles:               4096,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		Logger:                     e,
		EventListener: &pebble.EventListener{
			BackgroundError: e.backgroundError,
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				e.log.Error("storage engine found a damaged file", zap.String("path", i.Path), zap.Error(i.Details))
			},
			ManifestCreated: func(i pebble.ManifestCreateInfo) {
				if i.Err == nil {
					name := path.Base(i.Path)
					e.manifest.Store(&name)
				}
			},
			FlushEnd:      func(pebble.FlushInfo) { e.changed.Store(true) },
			CompactionEnd: func(pebble.CompactionInfo) { e.changed.Store(true) },
			TableDeleted:  func(pebble.TableDeleteInfo) { e.changed.Store(true) },
			WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
				e.log.Warn("writes wait for the storage engine", zap.String("reason", i.Reason))
			},
		},
	}
	p.TargetFileSizes[0] = 4 << 20
	for i := range p.Levels {
		p.Levels[i] = pebble.LevelOptions{
			BlockSize:      blockBytes,
			IndexBlockSize: 32 << 10,
			FilterPolicy:   bloom.FilterPolicy(10),
			Compression:    func() *block.CompressionProfile { return block.SnappyCompression },
		}
	}
	if o.tune != nil {
		o.tune(p)
	}
	return p
}
