package seal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writeBuffer is how many sealed bytes of a file that is written once are
// gathered before they are written.
const writeBuffer = 128 << 10

// A frameBuffer has room for that, and the frame that exceeds it.
type frameBuffer [writeBuffer + tableFrame + overhead]byte

var frameBuffers = sync.Pool{New: func() any { return new(frameBuffer) }}

var (
	errWriteOnly = errors.New("the file is open for writing only")
	errReadOnly  = errors.New("the file is open for reading only")
	errInPlace   = errors.New("sealed files are not changed in place")
	errFinished  = errors.New("the file was finished by Sync, and cannot grow any more")
	errMarker    = errors.New("a marker has no content but its name")
)

// A writer is a file open for writing: what Create returns. As vfs.File demands,
// its writes and syncs come one after the other.
type writer struct {
	h *handle

	// What follows is used under h.mu: by the one who writes, who holds it
	// shared, and by Reseal, which holds it exclusively.
	pending []byte // plaintext of the next frame
	sealed  []byte // frames not written yet, in buffer if that suffices
	buffer  *frameBuffer
	frames  uint64         // sealed
	tag     [markSize]byte // of the last frame sealed
	failed  error          // the first failure to write or sync

	finished atomic.Bool // the final frame is sealed

	synced atomic.Pointer[Tail] // what is on the disk for certain
	size   atomic.Int64         // logical bytes, for Stat
	offset atomic.Int64         // sealed bytes written to h.file, for readers of a log
}

var _ vfs.File = (*writer)(nil)

// Write adds p to the file.
func (w *writer) Write(p []byte) (int, error) {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	err := w.usable()
	switch {
	case err != nil:
	case w.h.kind == KindMarker:
		err = errMarker
	case w.finished.Load():
		err = errFinished
	case w.h.kind.log():
		err = w.writeLog(p)
	default:
		err = w.writeFrames(p)
	}
	if err != nil {
		return 0, fmt.Errorf("seal: write %s: %w", w.h.name, err)
	}
	w.size.Add(int64(len(p)))
	return len(p), nil
}

func (w *writer) usable() error {
	if w.h.file == nil {
		return errClosed
	}
	return w.failed
}

// writeFrames adds p to a file that is written once. A full frame is sealed only
// when more follows, because the last one, full or not, is the final frame.
func (w *writer) writeFrames(p []byte) error {
	size := w.h.hdr.frameSize
	for len(p) > 0 {
		if len(w.pending) == size {
			if err := w.sealFrame(w.pending, false); err != nil {
				return err
			}
			w.pending = w.pending[:0]
		}
		if len(w.pending) == 0 && len(p) > size {
			if err := w.sealFrame(p[:size], false); err != nil {
				return err
			}
			p = p[size:]
			continue
		}
		n := min(len(p), size-len(w.pending))
		w.pending = append(w.pending, p[:n]...)
		p = p[n:]
	}
	return nil
}

// writeLog adds p to a log. Frames are closed at a sync, or when full; and then
// they are synced at once, so that never more than one is not.
func (w *writer) writeLog(p []byte) error {
	full := w.h.hdr.frameSize - overhead - logPrefix
	for len(p) > 0 {
		if len(w.pending) == full {
			if err := w.sync((vfs.File).SyncData); err != nil {
				return err
			}
		}
		n := min(len(p), full-len(w.pending))
		w.pending = append(w.pending, p[:n]...)
		p = p[n:]
	}
	return nil
}

// sealFrame seals text as the next frame.
func (w *writer) sealFrame(text []byte, final bool) error {
	if w.frames >= maxFrames {
		return fmt.Errorf("it has %d frames, and its key may not seal more", w.frames)
	}
	s := getScratch()
	defer s.release()
	if w.buffer == nil && !w.h.kind.log() {
		w.buffer = frameBuffers.Get().(*frameBuffer)
		w.sealed = w.buffer[:0]
	}
	if w.h.kind.log() {
		text = s.logText([markSize]byte{}, text)
	}
	w.sealed = s.seal(w.sealed, w.h.aead, w.frames, final, text)
	w.frames++
	copy(w.tag[:], w.sealed[len(w.sealed)-tagSize:])
	w.h.kind.countSealed(1, len(text))
	if len(w.sealed) >= writeBuffer {
		return w.flush()
	}
	return nil
}

// flush writes the sealed frames.
func (w *writer) flush() error {
	if len(w.sealed) == 0 {
		return nil
	}
	n := len(w.sealed)
	_, err := w.h.file.Write(w.sealed)
	w.sealed = w.sealed[:0]
	if err != nil {
		w.failed = err
		return err
	}
	w.offset.Add(int64(n))
	return nil
}

// sync seals what is pending, as the final frame of a file that is written once,
// writes it, and syncs. A failed sync is not repeated.
func (w *writer) sync(sync func(vfs.File) error) error {
	err := w.usable()
	switch {
	case err != nil:
	case w.h.kind == KindMarker || w.finished.Load():
	case w.h.kind.log():
		if len(w.pending) > 0 {
			err = w.sealFrame(w.pending, false)
		}
	default:
		err = w.sealFrame(w.pending, true)
		w.finished.Store(true)
	}
	if err == nil {
		w.pending = w.pending[:0]
		err = w.flush()
	}
	if err == nil {
		err = sync(w.h.file)
	}
	if err != nil {
		w.failed = err
		return err
	}
	w.synced.Store(&Tail{Frames: w.frames, Tag: w.tag})
	return nil
}

// Sync makes all that was written durable. A file that is written once ends with
// it: Pebble syncs such a file when it is complete and only then closes it.
func (w *writer) Sync() error {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	if err := w.sync((vfs.File).Sync); err != nil {
		return fmt.Errorf("seal: sync %s: %w", w.h.name, err)
	}
	return nil
}

// SyncData is Sync, but for metadata that is not needed to read the file.
func (w *writer) SyncData() error {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	if err := w.sync((vfs.File).SyncData); err != nil {
		return fmt.Errorf("seal: sync %s: %w", w.h.name, err)
	}
	return nil
}

// SyncTo starts writing back the frames that hold the first length bytes. In a
// log it syncs.
func (w *writer) SyncTo(length int64) (fullSync bool, err error) {
	if w.h.kind.log() {
		return true, w.SyncData()
	}
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	if err := w.usable(); err != nil {
		return false, err
	}
	// What the file underneath calls full lacks the frames not written yet.
	_, err = w.h.file.SyncTo(min(w.h.physical(length), w.offset.Load()))
	return false, err
}

// Close closes the file. If it was not finished by Sync, it is now, and synced.
func (w *writer) Close() error {
	w.h.mu.RLock()
	var err error
	if w.h.file != nil && w.failed == nil && w.h.kind != KindMarker && !w.finished.Load() && (!w.h.kind.log() || len(w.pending) > 0) {
		err = w.sync((vfs.File).Sync)
	}
	w.h.mu.RUnlock()
	closeErr := w.h.close()
	if w.buffer != nil {
		frameBuffers.Put(w.buffer)
		w.buffer, w.sealed = nil, nil
	}
	if err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("seal: close %s: %w", w.h.name, err)
	}
	return nil
}

// done returns whether the file can grow no more.
func (w *writer) done() bool { return w.h.kind == KindMarker || w.finished.Load() }

// Preallocate reserves space for the frames of length bytes at offset.
func (w *writer) Preallocate(offset, length int64) error {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	if err := w.usable(); err != nil {
		return err
	}
	start := w.h.physical(offset)
	return w.h.file.Preallocate(start, w.h.physical(offset+length)-start)
}

// Stat describes the file; its size is what was written so far.
func (w *writer) Stat() (vfs.FileInfo, error) { return w.h.stat(w.size.Load()) }

// Fd returns a number that is no descriptor, but not vfs.InvalidFd either:
// Pebble takes InvalidFd to mean that it must call Sync every half MiB instead of
// SyncTo, which would finish a table early. It uses the value for nothing else
// on a file that it writes.
func (w *writer) Fd() uintptr { return vfs.InvalidFd - 1 }

// Read fails: a file being written is not read through the same handle.
func (w *writer) Read([]byte) (int, error) {
	return 0, fmt.Errorf("seal: read %s: %w", w.h.name, errWriteOnly)
}

// ReadAt fails.
func (w *writer) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("seal: read %s: %w", w.h.name, errWriteOnly)
}

// WriteAt fails.
func (w *writer) WriteAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("seal: write %s: %w", w.h.name, errInPlace)
}

// Prefetch does nothing.
func (w *writer) Prefetch(offset, length int64) error { return nil }
