package seal

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// readSpan is how many sealed bytes are read at once, for one ReadAt.
const readSpan = 512 << 10

// A reader is a file open for reading. It is safe for concurrent use, but for
// Read.
type reader struct {
	h    *handle
	size int64 // logical bytes
	pos  int64 // of Read

	physical int64     // sealed bytes of a file that is written once
	index    []logPart // frames of a log

	mu     sync.Mutex // guards what follows
	cached int        // frame of a log in text, or -1
	text   []byte
}

// A logPart is a frame of a log: where its data begins, and the frame.
type logPart struct {
	logical int64
	Frame
	size int // sealed bytes
}

var _ vfs.File = (*reader)(nil)

// newReader makes a reader of h. Of a file that is written once it opens the
// final frame, so that a file cut short is found out here; a log is opened
// frame by frame.
func (fs *FS) newReader(h *handle) (*reader, error) {
	r := &reader{h: h, cached: -1}
	h.mu.RLock()
	defer h.mu.RUnlock()
	info, err := h.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("seal: open %s: %w", h.name, err)
	}
	switch {
	case h.aead == nil: // no header
		return r, nil
	case h.kind == KindMarker:
		if info.Size() != headerSize {
			return nil, altered(h.kind, h.name, headerSize, "a marker ends with its header, but this one goes on")
		}
		return r, nil
	case h.kind.log():
		offset, live := fs.liveOffset(h.name, info.Size())
		return r, r.openLog(offset, live)
	}
	return r, r.openFrames(info.Size())
}

// openFrames finds the size of a file that is written once, and checks that it
// is whole.
func (r *reader) openFrames(physical int64) error {
	h := r.h
	r.physical = physical
	frame := int64(h.hdr.frameSize) + overhead
	body := physical - headerSize
	frames := (body + frame - 1) / frame
	last := body - (frames-1)*frame
	if frames == 0 || last < overhead || last == overhead && frames > 1 {
		return altered(h.kind, h.name, physical, "it ends within a frame, or before the first")
	}
	r.size = body - frames*overhead
	s := getScratch()
	defer s.release()
	s.buf = sized(s.buf, int(last))
	offset := physical - last
	if err := h.readAt(s.buf, offset); err != nil {
		return err
	}
	s.text = sized(s.text, int(last)-overhead)
	if _, err := s.open(s.text[:0], h.aead, uint64(frames-1), uint32(last-overhead)|finalBit, s.buf); err != nil {
		return altered(h.kind, h.name, offset, "its last frame does not open as the final one: it was cut short, never finished, or altered")
	}
	return nil
}

// openLog opens all frames of a log and remembers where they are. If the log is
// live, all bytes up to size are frames.
func (r *reader) openLog(size int64, live bool) error {
	end, err := r.h.scan(logStart, size, func(f Frame, _ [markSize]byte, data []byte) error {
		r.index = append(r.index, logPart{logical: r.size, Frame: f, size: logFrameSize(len(data))})
		r.size += int64(len(data))
		return nil
	})
	if err == nil && live && end.Offset != size {
		err = altered(r.h.kind, r.h.name, end.Offset, "frame %d does not open, and this process wrote it", end.Tail.Frames)
	}
	return err
}

// liveOffset returns how many sealed bytes of the file at path are whole frames
// already, if it is being written, else size.
func (fs *FS) liveOffset(path string, size int64) (offset int64, live bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for h := range fs.open[path] {
		if h.writer != nil {
			return h.writer.offset.Load(), true
		}
	}
	return size, false
}

// ReadAt reads as io.ReaderAt does; offsets are those of the plaintext. Nothing
// that is not authentic gets into p.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("seal: read %s: negative offset", r.h.name)
	}
	var eof error
	if rest := r.size - off; rest < int64(len(p)) {
		if rest <= 0 {
			return 0, io.EOF
		}
		p, eof = p[:rest], io.EOF
	}
	r.h.mu.RLock()
	defer r.h.mu.RUnlock()
	if r.h.file == nil {
		return 0, fmt.Errorf("seal: read %s: %w", r.h.name, errClosed)
	}
	read := r.readFrames
	if r.h.kind.log() {
		read = r.readLog
	}
	if err := read(p, off); err != nil {
		return 0, err
	}
	return len(p), eof
}

// readFrames fills p from a file that is written once. Frames that p holds whole
// are opened into p, others into scratch memory.
func (r *reader) readFrames(p []byte, off int64) error {
	s := getScratch()
	defer s.release()
	size := int64(r.h.hdr.frameSize)
	for len(p) > 0 {
		first := off / size
		last := min((off+int64(len(p))-1)/size, first+readSpan/(size+overhead))
		start := r.h.physical(first * size)
		s.buf = sized(s.buf, int(min(r.h.physical((last+1)*size), r.physical)-start))
		if err := r.h.readAt(s.buf, start); err != nil {
			return err
		}
		sealed := s.buf
		for i := first; i <= last; i++ {
			frame := sealed[:min(len(sealed), int(size)+overhead)]
			sealed = sealed[len(frame):]
			n, err := r.readFrame(s, p, int(off-i*size), i, frame)
			if err != nil {
				return altered(r.h.kind, r.h.name, start+(i-first)*(size+overhead), "frame %d does not open", i)
			}
			p = p[n:]
			off += int64(n)
		}
	}
	return nil
}

// readFrame opens frame i and puts its plaintext from skip on into p. It returns
// how much that was.
func (r *reader) readFrame(s *scratch, p []byte, skip int, i int64, frame []byte) (int, error) {
	n := len(frame) - overhead
	word := uint32(n)
	if r.h.physical((i+1)*int64(r.h.hdr.frameSize)) >= r.physical {
		word |= finalBit
	}
	r.h.kind.countOpened(1, n)
	if skip == 0 && len(p) >= n {
		_, err := s.open(p[:0:n], r.h.aead, uint64(i), word, frame)
		return n, err
	}
	s.text = sized(s.text, n)
	text, err := s.open(s.text[:0], r.h.aead, uint64(i), word, frame)
	if err != nil {
		return 0, err
	}
	return copy(p, text[skip:]), nil
}

// readLog fills p from a log. The last frame stays open, because logs are read
// from one end to the other in pieces smaller than a frame.
func (r *reader) readLog(p []byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.index), func(i int) bool { return r.index[i].logical > off }) - 1
	for len(p) > 0 {
		part := r.index[i]
		if r.cached != i {
			if err := r.openPart(part); err != nil {
				return err
			}
			r.cached = i
		}
		n := copy(p, r.text[off-part.logical:])
		p = p[n:]
		off += int64(n)
		i++
	}
	return nil
}

// openPart opens a frame of a log into r.text.
func (r *reader) openPart(part logPart) error {
	r.cached = -1
	s := getScratch()
	defer s.release()
	s.buf = sized(s.buf, part.size)
	if err := r.h.readAt(s.buf, part.Offset); err != nil {
		return err
	}
	data, _, err := r.h.openLogFrame(s, part.Index, uint32(part.size-overhead), s.buf)
	if err != nil {
		return altered(r.h.kind, r.h.name, part.Offset, "frame %d does not open", part.Index)
	}
	r.text = append(r.text[:0], data...)
	return nil
}

// Read reads on from where the last Read ended.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.pos)
	r.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Prefetch asks for the frames that hold length bytes at offset.
func (r *reader) Prefetch(offset, length int64) error {
	r.h.mu.RLock()
	defer r.h.mu.RUnlock()
	if r.h.file == nil || r.h.kind.log() {
		return nil
	}
	start := r.h.physical(offset)
	return r.h.file.Prefetch(start, r.h.physical(offset+length)-start+int64(r.h.hdr.frameSize))
}

// Stat describes the file; its size is that of the plaintext.
func (r *reader) Stat() (vfs.FileInfo, error) { return r.h.stat(r.size) }

// Fd returns vfs.InvalidFd: what stands behind a descriptor is not the content.
func (r *reader) Fd() uintptr { return vfs.InvalidFd }

// Close closes the file.
func (r *reader) Close() error { return r.h.close() }

// Write fails.
func (r *reader) Write([]byte) (int, error) {
	return 0, fmt.Errorf("seal: write %s: %w", r.h.name, errReadOnly)
}

// WriteAt fails.
func (r *reader) WriteAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("seal: write %s: %w", r.h.name, errReadOnly)
}

// Preallocate fails.
func (r *reader) Preallocate(offset, length int64) error {
	return fmt.Errorf("seal: preallocate %s: %w", r.h.name, errReadOnly)
}

// Sync does nothing: nothing was written.
func (r *reader) Sync() error { return nil }

// SyncData does nothing.
func (r *reader) SyncData() error { return nil }

// SyncTo does nothing.
func (r *reader) SyncTo(int64) (fullSync bool, err error) { return true, nil }

// physical returns where the frame of a file that is written once begins that
// holds the plaintext at offset.
func (h *handle) physical(offset int64) int64 {
	size := int64(h.hdr.frameSize)
	return headerSize + offset/size*(size+overhead)
}

// A fileInfo is that of the sealed file, with the size of the plaintext.
type fileInfo struct {
	vfs.FileInfo
	size int64
}

func (i fileInfo) Size() int64 { return i.size }

func (h *handle) stat(size int64) (vfs.FileInfo, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.file == nil {
		return nil, fmt.Errorf("seal: stat %s: %w", h.name, errClosed)
	}
	info, err := h.file.Stat()
	if err != nil {
		return nil, err
	}
	return fileInfo{info, size}, nil
}
