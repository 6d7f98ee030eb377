package mvcc

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sequentialBytes is how much of a table is read at once by who reads it from one end to the other. It is a multiple
// of the frames that tables are sealed in: each frame is opened once, where blocks, which begin and end anywhere, have
// those at their edges opened twice.
const sequentialBytes = 64 << 10

// sequentialFS reads ahead in files that the engine opens to read them in order: compactions, long iterators, the scan
// at start. Read-ahead by the operating system saves neither system calls nor the opening of frames.
type sequentialFS struct{ vfs.FS }

func (fs sequentialFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		if o == vfs.SequentialReadsOption {
			return &sequentialFile{File: f}, nil
		}
	}
	return f, nil
}

// sequentialFile keeps the part of a file that is being read. Tables do not change, so what it keeps stays true.
type sequentialFile struct {
	vfs.File

	mu   sync.Mutex
	next int64  // where the last read ended
	from int64  // where data begins in the file
	data []byte // in buf
	buf  *[sequentialBytes]byte
}

var sequentialBuffers = sync.Pool{New: func() any { return new([sequentialBytes]byte) }}

// ReadAt reads ahead if it goes on, more or less, where the last one ended.
func (f *sequentialFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gap := off - f.next
	f.next = off + int64(len(p))
	done := f.kept(p, off)
	if done == len(p) {
		return done, nil
	}
	p, off = p[done:], off+int64(done)
	if len(p) >= sequentialBytes || gap < 0 || gap >= sequentialBytes {
		n, err := f.File.ReadAt(p, off)
		return done + n, err
	}
	if f.buf == nil {
		f.buf = sequentialBuffers.Get().(*[sequentialBytes]byte)
	}
	for len(p) > 0 {
		f.from = off / sequentialBytes * sequentialBytes
		n, _ := f.File.ReadAt(f.buf[:], f.from)
		f.data = f.buf[:n]
		n = f.kept(p, off)
		if n == 0 { // the end of the file, or something that does not open: say so only if it was asked for
			n, err := f.File.ReadAt(p, off)
			return done + n, err
		}
		done += n
		p, off = p[n:], off+int64(n)
	}
	return done, nil
}

// kept copies what it can of p from what is in memory.
func (f *sequentialFile) kept(p []byte, off int64) int {
	if off < f.from || off >= f.from+int64(len(f.data)) {
		return 0
	}
	return copy(p, f.data[off-f.from:])
}

func (f *sequentialFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buf != nil {
		sequentialBuffers.Put(f.buf)
		f.buf, f.data = nil, nil
	}
	return f.File.Close()
}
