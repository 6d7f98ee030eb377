package seal

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"go.uber.org/zap"
)

// tableFrame is the plaintext in a frame of the files that are written once. The
// smaller the frame, the less is opened in vain around the block that Pebble
// reads; the larger, the fewer nonces and tags. Processor time of a read of 4 KiB
// and of 32 KiB at random places, and of writing 8 MiB, on an AMD EPYC
// (BenchmarkTableRead, BenchmarkTableWrite):
//
//	in the clear   1.7 µs    4.9 µs   5.1 ms
//	2 KiB          4.3 µs   15.3 µs  10.3 ms
//	4 KiB          4.8 µs   15.0 µs   9.7 ms
//	8 KiB          6.0 µs   15.5 µs   9.3 ms
//	16 KiB         8.8 µs   18.5 µs   8.9 ms
//	32 KiB        15.9 µs   25.0 µs   8.4 ms
//
// Keeping the last frame of a read for the next would save a sequential reader of
// 32 KiB at most one frame in nine, and cost every other reader a lock and memory.
const tableFrame = 4 << 10

// unfinished is put before the name of a file that is not to be seen under its
// own name yet. A crash may leave such files; see RemoveUnfinished.
const unfinished = "unfinished."

// resealed comes between that and the name of a copy that Reseal makes.
const resealed = "resealed."

// finalBase returns the name that the unfinished file base will have.
func finalBase(base string) string {
	if rest, ok := strings.CutPrefix(base, unfinished); ok {
		return strings.TrimPrefix(rest, resealed)
	}
	return base
}

// Options are the options of an FS.
type Options struct {
	Logger *zap.Logger // nil: silent
}

// An FS is a file system on which every file is sealed. It implements vfs.FS and
// stands on another one, base, which sees only sealed bytes.
//
// It is safe for concurrent use. A file must be named by the same path, up to
// cleaning, by all who use it: handles, Reseal and Inventory find each other by
// path.
type FS struct {
	base   vfs.FS
	kr     *keyring.Keyring
	member keyring.Member
	log    *zap.Logger

	tableFrame int // tableFrame, but for benchmarks

	// creating is held shared while a file appears under its name, with the key
	// that is active at that time. Inventory passes through it exclusively, so
	// that no file comes to light later under a key that was active before.
	creating sync.RWMutex
	moves    atomic.Int64 // how often files got new names, by Rename or Link

	names nameLocks

	mu       sync.Mutex                      // guards what follows; taken last
	open     map[string]map[*handle]struct{} // by path
	unlinked map[*handle]struct{}            // open, but without a name
	reseals  map[string]*resealing           // under way, by path
}

var _ vfs.FS = (*FS)(nil)

// New returns a file system that seals what it writes to base with keys from kr.
func New(base vfs.FS, kr *keyring.Keyring, o Options) *FS {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &FS{
		base:   base,
		kr:     kr,
		member: kr.Member(),
		log:    o.Logger,

		tableFrame: tableFrame,

		open:     make(map[string]map[*handle]struct{}),
		unlinked: make(map[*handle]struct{}),
		reseals:  make(map[string]*resealing),
	}
}

// path returns name as the handles' registry knows it.
func (fs *FS) path(name string) string { return fs.base.PathJoin(name) }

// kindOf returns the kind of the file at path.
func (fs *FS) kindOf(path string) (Kind, error) {
	base := fs.base.PathBase(path)
	if strings.HasPrefix(base, unfinished) {
		return 0, fmt.Errorf("seal: %s: names that begin with %q are for unfinished files", path, unfinished)
	}
	kind, ok := KindOf(base)
	if !ok {
		return 0, fmt.Errorf("seal: %s: no kind of file has such a name", path)
	}
	return kind, nil
}

// unfinishedPath returns where the file for path is prepared.
func (fs *FS) unfinishedPath(path string) string {
	return fs.base.PathJoin(fs.base.PathDir(path), unfinished+fs.base.PathBase(path))
}

// resealedPath returns where the file at path is sealed anew. A Reseal whose file
// was removed may still be at work when another one of that name is prepared.
func (fs *FS) resealedPath(path string) string {
	return fs.base.PathJoin(fs.base.PathDir(path), unfinished+resealed+fs.base.PathBase(path))
}

// syncDirOf makes the names in the directory of path durable.
func (fs *FS) syncDirOf(path string) error {
	dir, err := fs.base.OpenDir(fs.base.PathDir(path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return err
}

// OpenDir opens the named directory for syncing.
func (fs *FS) OpenDir(name string) (vfs.File, error) { return fs.base.OpenDir(name) }

// MkdirAll creates a directory and its parents.
func (fs *FS) MkdirAll(dir string, perm os.FileMode) error { return fs.base.MkdirAll(dir, perm) }

// PathBase, PathJoin and PathDir follow the file system underneath.
func (fs *FS) PathBase(path string) string { return fs.base.PathBase(path) }

// PathJoin joins path elements.
func (fs *FS) PathJoin(elem ...string) string { return fs.base.PathJoin(elem...) }

// PathDir returns all but the last element of path.
func (fs *FS) PathDir(path string) string { return fs.base.PathDir(path) }

// GetDiskUsage reports on the file system underneath.
func (fs *FS) GetDiskUsage(path string) (vfs.DiskUsage, error) { return fs.base.GetDiskUsage(path) }

// Unwrap returns nil: nothing may reach the file system underneath.
func (fs *FS) Unwrap() vfs.FS { return nil }
