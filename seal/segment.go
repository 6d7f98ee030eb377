package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var (
	// ErrRetiredKey says that a segment cannot be used again, because it was last
	// used under a data key that is not the active one. Remove it instead.
	ErrRetiredKey = errors.New("it is under a data key that is not active any more")

	// ErrSegmentFull says that a frame does not fit into what is left of a
	// segment. Nothing was written.
	ErrSegmentFull = errors.New("segment is full")
)

// A Segment is an open journal segment. It has its full length, zeroed and
// synced, from the beginning, so that appending changes no metadata. Its last
// sector is kept for the end mark.
//
// One goroutine appends, syncs and ends; the other methods may be called at any
// time.
type Segment struct {
	h      *handle
	length int64 // of the file, in bytes; Reseal keeps it

	buf []byte // the sealed frame, kept between calls

	mu     sync.Mutex
	end    SegmentEnd
	dirty  bool  // a frame is written but not synced
	over   error // why nothing more is appended, if so
	failed error // the first failure to write or sync
}

// SegmentSize returns the size of the smallest segment with room for one frame
// of n bytes of payload.
func SegmentSize(n int) int64 { return headerSize + int64(logFrameSize(n)) + sector }

// CreateSegment makes a segment of at least size bytes. It appears under its
// name with everything durable: header, length, zeros; and if there was a file of
// that name, which must not be open, it is replaced in that instant. That takes a
// while and is meant to be done in the background, before the segment is needed.
func (fs *FS) CreateSegment(name string, size int64) (*Segment, error) {
	path, err := fs.segmentPath(name)
	if err != nil {
		return nil, err
	}
	defer fs.names.lock(path)()
	s, err := fs.createSegment(path, size)
	for errors.Is(err, ErrRetiredKey) { // rotated meanwhile
		s, err = fs.createSegment(path, size)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: create journal segment %s: %w", path, err)
	}
	return s, nil
}

func (fs *FS) segmentPath(name string) (string, error) {
	path := fs.path(name)
	if kind, err := fs.kindOf(path); err != nil {
		return "", err
	} else if kind != KindJournal {
		return "", fmt.Errorf("seal: %s: the name is that of a %v, not of a journal segment", path, kind)
	}
	return path, nil
}

func (fs *FS) createSegment(path string, size int64) (*Segment, error) {
	if fs.inUse(path) {
		return nil, errInUse
	}
	size = (max(size, SegmentSize(0)) + sector - 1) / sector * sector
	hdr, err := fs.newHeader(KindJournal, fs.base.PathBase(path), size)
	if err != nil {
		return nil, err
	}
	b, aead, err := fs.sealHeader(&hdr)
	if err != nil {
		return nil, err
	}
	file, err := fs.base.Create(fs.unfinishedPath(path), writeCategory)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(b)
	if err == nil {
		err = writeZeros(file.Write, size-headerSize)
	}
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		fs.base.Remove(fs.unfinishedPath(path))
		return nil, err
	}
	return fs.startSegment(path, &handle{fs: fs, kind: KindJournal, name: path, aead: aead, hdr: hdr})
}

// startSegment gives the finished segment its name and opens it, unless the data
// key was rotated since the segment was begun.
func (fs *FS) startSegment(path string, h *handle) (*Segment, error) {
	fs.creating.RLock()
	defer fs.creating.RUnlock()
	if h.hdr.key != fs.kr.Active() {
		fs.base.Remove(fs.unfinishedPath(path))
		return nil, ErrRetiredKey
	}
	if err := fs.base.Rename(fs.unfinishedPath(path), path); err != nil {
		return nil, err
	}
	if err := fs.syncDirOf(path); err != nil {
		return nil, err
	}
	h.opener = opener{write: true}
	var err error
	if h.file, err = h.opener.open(fs.base, path); err != nil {
		return nil, err
	}
	s := &Segment{h: h, length: h.hdr.length, end: logStart}
	h.segment = s
	fs.unlink(path) // what was resealing or reading a file of that name before
	fs.register(h, path)
	return s, nil
}

var errInUse = errors.New("a file of that name is open")

func (fs *FS) inUse(path string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.open[path]) > 0
}

// ReuseSegment makes a segment out of an old one that is not open any more: it
// keeps its blocks on the disk, and gets a new name, a new salt and zeros. If it
// fails with ErrRetiredKey, remove what is left of the old segment.
func (fs *FS) ReuseSegment(oldname, newname string) (*Segment, error) {
	oldpath, err := fs.segmentPath(oldname)
	if err != nil {
		return nil, err
	}
	path, err := fs.segmentPath(newname)
	if err != nil {
		return nil, err
	}
	defer fs.names.lockBoth(oldpath, path)()
	s, err := fs.reuseSegment(oldpath, path)
	if err != nil {
		return nil, fmt.Errorf("seal: use journal segment %s again as %s: %w", oldpath, path, err)
	}
	return s, nil
}

func (fs *FS) reuseSegment(oldpath, path string) (*Segment, error) {
	if fs.inUse(oldpath) || fs.inUse(path) {
		return nil, errInUse
	}
	old, err := fs.openFile(oldpath, opener{})
	if err != nil {
		return nil, err
	}
	old.file.Close()
	hdr, err := fs.newHeader(KindJournal, fs.base.PathBase(path), old.hdr.length)
	if err != nil {
		return nil, err
	}
	if old.hdr.key != hdr.key {
		return nil, ErrRetiredKey
	}
	// While its header changes, the file must not be found under either name.
	fs.unlink(oldpath)
	if err := fs.base.Rename(oldpath, fs.unfinishedPath(path)); err != nil {
		return nil, err
	}
	if err := fs.syncDirOf(path); err != nil {
		return nil, err
	}
	b, aead, err := fs.sealHeader(&hdr)
	if err != nil {
		return nil, err
	}
	file, err := fs.base.OpenReadWrite(fs.unfinishedPath(path), writeCategory)
	if err != nil {
		return nil, err
	}
	// With the new salt durable, no frame of the former life opens any more.
	_, err = file.WriteAt(b, 0)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		at := int64(headerSize)
		err = writeZeros(func(p []byte) (int, error) {
			n, err := file.WriteAt(p, at)
			at += int64(n)
			return n, err
		}, hdr.length-headerSize)
	}
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	return fs.startSegment(path, &handle{fs: fs, kind: KindJournal, name: path, aead: aead, hdr: hdr})
}

const writeCategory = vfs.WriteCategoryUnspecified

// writeZeros writes n zero bytes. The buffer is new each time, because a vfs.File
// may write to it.
func writeZeros(write func([]byte) (int, error), n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		buf = buf[:min(n, int64(len(buf)))]
		if _, err := write(buf); err != nil {
			return err
		}
		clear(buf)
		n -= int64(len(buf))
	}
	return nil
}

// Append seals payload, which may be empty, as one frame and writes it. It is
// not durable before Sync, which must come before the next Append. After a
// failure, other than ErrSegmentFull, the segment is only good for reading.
func (s *Segment) Append(payload []byte) (Frame, error) {
	s.mu.Lock()
	end, err := s.end, s.failed
	switch {
	case err != nil:
	case s.over != nil:
		err = s.over
	case s.dirty:
		err = fmt.Errorf("seal: append to %s: the frame before is not synced yet", s.h.name)
	}
	s.mu.Unlock()
	if err != nil {
		return Frame{}, err
	}
	if len(payload) > MaxPayload {
		return Frame{}, fmt.Errorf("seal: append to %s: %d bytes are more than a frame holds (%d)", s.h.name, len(payload), MaxPayload)
	}
	if !s.Fits(len(payload)) {
		return Frame{}, ErrSegmentFull
	}
	f := Frame{Offset: end.Offset, Index: end.Tail.Frames}
	if err := s.write(f, false, payload); err != nil {
		return Frame{}, s.fail(fmt.Errorf("seal: append to %s: %w", s.h.name, err))
	}
	return f, nil
}

// End writes and syncs the end mark: an empty frame in the last sector, marked
// final, whose index is the number of frames before it. Nothing can be appended
// afterwards.
func (s *Segment) End() error {
	if err := s.Sync(); err != nil {
		return err
	}
	s.mu.Lock()
	end := s.end
	s.mu.Unlock()
	if end.Ended {
		return nil
	}
	err := s.write(Frame{Offset: s.length - sector, Index: end.Tail.Frames}, true, nil)
	if err == nil {
		err = s.syncData()
	}
	if err != nil {
		return s.fail(fmt.Errorf("seal: end %s: %w", s.h.name, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end.Ended = true
	s.over = fmt.Errorf("seal: append to %s: it has ended", s.h.name)
	return nil
}

// write seals a frame and writes it. That the segment now reaches further is
// recorded before Reseal can exchange the file: it copies what is recorded.
func (s *Segment) write(f Frame, final bool, payload []byte) error {
	scratch := getScratch()
	defer scratch.release()
	text := scratch.logText([markSize]byte{}, payload)
	s.h.mu.RLock()
	defer s.h.mu.RUnlock()
	if s.h.file == nil {
		return errClosed
	}
	s.buf = sized(s.buf, 0)
	s.buf = scratch.seal(s.buf, s.h.aead, f.Index, final, text)
	if _, err := s.h.file.WriteAt(s.buf, f.Offset); err != nil {
		return err
	}
	KindJournal.countSealed(1, len(text))
	if final {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end.Tail.Frames++
	copy(s.end.Tail.Tag[:], s.buf[len(s.buf)-tagSize:])
	s.end.Offset += int64(len(s.buf))
	s.dirty = true
	return nil
}

var errClosed = errors.New("the file is closed")

// Sync makes the appended frame durable. A failed Sync cannot be repeated: what
// is on the disk is unknown then, and the member must stop.
func (s *Segment) Sync() error {
	s.mu.Lock()
	dirty, err := s.dirty, s.failed
	s.mu.Unlock()
	if err != nil || !dirty {
		return err
	}
	if err := s.syncData(); err != nil {
		return s.fail(fmt.Errorf("seal: sync %s: %w", s.h.name, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = false
	return nil
}

func (s *Segment) syncData() error {
	s.h.mu.RLock()
	defer s.h.mu.RUnlock()
	if s.h.file == nil {
		return errClosed
	}
	return s.h.file.SyncData()
}

// fail makes every further write fail with err.
func (s *Segment) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	return s.failed
}

// Name returns the path of the segment.
func (s *Segment) Name() string { return s.h.name }

// Tail returns how far the segment reaches, a frame that is not synced included.
func (s *Segment) Tail() Tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end.Tail
}

// Offset returns where the next frame goes: how much of the file is used.
func (s *Segment) Offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end.Offset
}

// Size returns the size of the file in bytes.
func (s *Segment) Size() int64 { return s.length }

// Fits returns whether a frame of n bytes of payload fits into what is left.
func (s *Segment) Fits(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n <= MaxPayload && s.end.Offset+int64(logFrameSize(n)) <= s.length-sector && s.end.Tail.Frames < maxFrames
}

// Active returns whether the segment is under the active data key.
func (s *Segment) Active() bool {
	s.h.mu.RLock()
	defer s.h.mu.RUnlock()
	return s.h.hdr.key == s.h.fs.kr.Active()
}

// ReadFrame returns the payload of a frame that Append returned, or ReadSegment
// found. The caller owns it.
func (s *Segment) ReadFrame(f Frame) ([]byte, error) { return s.h.readFrame(f) }

// Close closes the segment. It does not sync.
func (s *Segment) Close() error { return s.h.close() }

// OpenSegment opens a segment of an earlier process, whose end ReadSegment has
// found, to read single frames and to end it, which syncs it even if it has
// ended already. Nothing can be appended to it: after an unclean stop a torn
// frame may stand where the next one would go.
func (fs *FS) OpenSegment(name string, end SegmentEnd) (*Segment, error) {
	h, err := fs.openSegment(name, true)
	if err != nil {
		return nil, err
	}
	// Its writer may have been killed before it synced what is read now.
	s := &Segment{h: h, length: h.hdr.length, end: end, dirty: true, over: fmt.Errorf("seal: append to %s: it was written by an earlier process", h.name)}
	fs.mu.Lock()
	h.segment = s
	fs.mu.Unlock()
	return s, nil
}

func (fs *FS) openSegment(name string, write bool) (*handle, error) {
	path, err := fs.segmentPath(name)
	if err != nil {
		return nil, err
	}
	defer fs.names.lock(path)()
	h, err := fs.openFile(path, opener{write: write})
	if errors.Is(err, errNoHeader) {
		err = altered(KindJournal, path, 0, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	fs.register(h, path)
	return h, nil
}

func (h *handle) readFrame(f Frame) ([]byte, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.file == nil {
		return nil, fmt.Errorf("seal: read %s: %w", h.name, errClosed)
	}
	s := getScratch()
	defer s.release()
	s.buf = sized(s.buf, 16<<10) // most frames are smaller: one read
	if rest := h.hdr.length - f.Offset; f.Offset < headerSize || rest < sector {
		return nil, fmt.Errorf("seal: read %s: no frame can be at offset %d", h.name, f.Offset)
	} else if rest < int64(len(s.buf)) {
		s.buf = s.buf[:rest]
	}
	if err := h.readAt(s.buf, f.Offset); err != nil {
		return nil, err
	}
	word := binary.LittleEndian.Uint32(s.buf)
	n, ok := logWord(word, h.hdr.frameSize)
	if !ok || f.Offset+n > h.hdr.length {
		return nil, altered(h.kind, h.name, f.Offset, "a frame has an impossible length")
	}
	if read := len(s.buf); int(n) > read {
		s.buf = append(s.buf, make([]byte, int(n)-read)...)
		if err := h.readAt(s.buf[read:], f.Offset+int64(read)); err != nil {
			return nil, err
		}
	}
	data, _, err := h.openLogFrame(s, f.Index, word, s.buf[:n])
	if err != nil {
		return nil, altered(h.kind, h.name, f.Offset, "frame %d does not open", f.Index)
	}
	return append([]byte(nil), data...), nil
}

// ReadSegment gives the frames of a segment, in order, to fn, which must not keep
// payload, and returns where the segment ends. If the segment is open, it ends
// with the last frame appended; else what stands behind the last frame is
// examined, and an *Error is returned unless it is nothing, or the one frame that
// a crash can tear. fn must not use the segment.
func (fs *FS) ReadSegment(name string, fn func(f Frame, payload []byte) error) (SegmentEnd, error) {
	h, err := fs.openSegment(name, false)
	if err != nil {
		return SegmentEnd{}, err
	}
	defer h.close()
	h.mu.RLock()
	defer h.mu.RUnlock()
	info, err := h.file.Stat()
	if err != nil {
		return SegmentEnd{}, fmt.Errorf("seal: read %s: %w", h.name, err)
	}
	if info.Size() != h.hdr.length {
		return SegmentEnd{}, altered(KindJournal, h.name, info.Size(), "the segment has %d bytes, but was made with %d", info.Size(), h.hdr.length)
	}
	live, isLive := fs.liveEnd(h.name)
	size := h.hdr.length - sector
	if isLive {
		size = live.Offset
	}
	end, err := h.scan(logStart, size, func(f Frame, _ [markSize]byte, data []byte) error { return fn(f, data) })
	if err != nil {
		return end, err
	}
	if isLive {
		if end.Offset != live.Offset {
			return end, altered(KindJournal, h.name, end.Offset, "frame %d does not open, and this process wrote it", end.Tail.Frames)
		}
		return live, nil
	}
	end.Ended, err = h.readEndMark(end)
	return end, err
}

// readEndMark returns whether the segment has an end mark. If it has, it must
// count the frames that were found: otherwise some are missing.
func (h *handle) readEndMark(end SegmentEnd) (bool, error) {
	s := getScratch()
	defer s.release()
	s.buf = sized(s.buf, sector)
	offset := h.hdr.length - sector
	if err := h.readAt(s.buf, offset); err != nil {
		return false, err
	}
	if lastNonZero(s.buf) == 0 {
		return false, nil
	}
	if _, _, err := h.openLogFrame(s, end.Tail.Frames, (sector-overhead)|finalBit, s.buf); err != nil {
		return false, altered(h.kind, h.name, offset, "there are %d frames, and the end mark does not open for as many", end.Tail.Frames)
	}
	return true, nil
}

// liveEnd returns where the segment at path ends, if it is open.
func (fs *FS) liveEnd(path string) (SegmentEnd, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for h := range fs.open[path] {
		if h.segment != nil {
			h.segment.mu.Lock()
			defer h.segment.mu.Unlock()
			return h.segment.end, true
		}
	}
	return SegmentEnd{}, false
}
