package seal

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A handle is an open sealed file: descriptor and file key, which Reseal
// exchanges while the file stays open. A resealed file has its frames where they
// were, so nothing else about an open file changes.
type handle struct {
	fs   *FS
	kind Kind
	name string // path it was opened by, for messages
	path string // its path now, "" if unlinked; guarded by fs.mu

	// mu is held shared while file or aead is used, and exclusively while they
	// are exchanged.
	mu   sync.RWMutex
	file vfs.File
	aead cipher.AEAD
	hdr  header

	opener  opener   // for Reseal to open the file again
	writer  *writer  // of a file being written through Create
	segment *Segment // of a journal segment open for appending
}

// register makes h known under path. The caller holds the lock of the name, and
// fs.creating if the file is new.
func (fs *FS) register(h *handle, path string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h.path = path
	if fs.open[path] == nil {
		fs.open[path] = make(map[*handle]struct{})
	}
	fs.open[path][h] = struct{}{}
}

// close makes h unknown and closes its descriptor.
func (h *handle) close() error {
	fs := h.fs
	fs.mu.Lock()
	if set := fs.open[h.path]; set != nil {
		delete(set, h)
		if len(set) == 0 {
			delete(fs.open, h.path)
		}
	}
	delete(fs.unlinked, h)
	fs.mu.Unlock()

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return errors.New("seal: file closed twice")
	}
	err := h.file.Close()
	h.file = nil
	return err
}

// unlink records that path does not name its open file any more. The caller
// holds the lock of the name.
func (fs *FS) unlink(path string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for h := range fs.open[path] {
		fs.unlinked[h] = struct{}{}
		h.path = ""
	}
	delete(fs.open, path)
	if r := fs.reseals[path]; r != nil {
		r.abandon()
	}
}

// openFile opens the sealed file at path: its descriptor, header and file key.
// A header cut short gives errNoHeader. The caller holds the lock of the name.
func (fs *FS) openFile(path string, o opener) (*handle, error) {
	file, err := o.open(fs.base, path)
	if err != nil {
		return nil, err
	}
	h, err := fs.readHeader(path, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	h.opener = o
	return h, nil
}

// An opener opens a file underneath the way a handle needs it.
type opener struct {
	write bool // a journal segment, to be written in place
	opts  []vfs.OpenOption
}

func (o opener) open(base vfs.FS, path string) (vfs.File, error) {
	if o.write {
		if _, err := base.Stat(path); err != nil {
			return nil, err // OpenReadWrite would create it
		}
		return base.OpenReadWrite(path, writeCategory)
	}
	return base.Open(path, o.opts...)
}

// errNoHeader says that a file has no complete header: it ends before, or the
// header's sector was never written.
var errNoHeader = errors.New("it has no complete header")

// readHeader authenticates the header of file, which stands at path.
func (fs *FS) readHeader(path string, file vfs.File) (*handle, error) {
	b := make([]byte, headerSize)
	if n, err := file.ReadAt(b, 0); n < headerSize {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("seal: read the header of %s: %w", path, err)
		}
		return nil, errNoHeader
	}
	if lastNonZero(b) == 0 {
		return nil, errNoHeader
	}
	hdr, aead, err := fs.openHeader(path, b)
	if err != nil {
		return nil, err
	}
	return &handle{fs: fs, kind: hdr.kind, name: path, file: file, aead: aead, hdr: hdr}, nil
}

// physicalSize returns the size of the sealed file in bytes.
func (h *handle) physicalSize() (int64, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.file == nil {
		return 0, nil
	}
	info, err := h.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readAt fills b from the sealed bytes at offset. The caller holds h.mu.
func (h *handle) readAt(b []byte, offset int64) error {
	if n, err := h.file.ReadAt(b, offset); n < len(b) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return readError(h.kind, h.name, offset+int64(n), err)
	}
	return nil
}

// nameLocks are locks by path, for what must not happen to one name at the same
// time.
type nameLocks struct {
	mu    sync.Mutex
	locks map[string]*nameLock
}

type nameLock struct {
	sync.Mutex
	users int // guarded by nameLocks.mu
}

// lock locks the path and returns what unlocks it. To lock two paths, use
// lockBoth.
func (l *nameLocks) lock(path string) (unlock func()) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = make(map[string]*nameLock)
	}
	n := l.locks[path]
	if n == nil {
		n = new(nameLock)
		l.locks[path] = n
	}
	n.users++
	l.mu.Unlock()
	n.Lock()
	return func() {
		n.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(l.locks, path)
		}
	}
}

// lockBoth locks two paths, which may be the same.
func (l *nameLocks) lockBoth(a, b string) (unlock func()) {
	if a == b {
		return l.lock(a)
	}
	if a > b {
		a, b = b, a
	}
	unlockA := l.lock(a)
	unlockB := l.lock(b)
	return func() { unlockB(); unlockA() }
}
