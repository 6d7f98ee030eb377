package seal

import (
	"crypto/subtle"
	"fmt"
)

// LogTail returns how far a log (a MANIFEST, say) reaches. If it is being
// written, that is what has been synced. Recorded where it cannot be put back
// together with the log, it lets CheckTail refuse a log that was cut.
func (fs *FS) LogTail(name string) (Tail, error) {
	path := fs.path(name)
	fs.mu.Lock()
	for h := range fs.open[path] {
		if h.writer != nil && h.kind.log() {
			defer fs.mu.Unlock()
			if t := h.writer.synced.Load(); t != nil {
				return *t, nil
			}
			return Tail{}, nil
		}
	}
	fs.mu.Unlock()
	return fs.scanTail(path, func(Tail) {})
}

// CheckTail refuses a log that does not reach as far as t, or reached it by
// other frames, with an *Error.
func (fs *FS) CheckTail(name string, t Tail) error {
	path := fs.path(name)
	found := t.Frames == 0
	var have uint64
	_, err := fs.scanTail(path, func(at Tail) {
		have = at.Frames
		if at.Frames == t.Frames {
			found = subtle.ConstantTimeCompare(at.Tag[:], t.Tag[:]) == 1
		}
	})
	if err != nil {
		return err
	}
	kind, _ := KindOf(fs.base.PathBase(path))
	switch {
	case have < t.Frames:
		return altered(kind, path, 0, "it has %d frames, but had %d: it was cut, or an older one was put in its place", have, t.Frames)
	case !found:
		return altered(kind, path, 0, "frame %d is not the one that was recorded: another file was put in its place", t.Frames-1)
	}
	return nil
}

// scanTail gives the tail up to every frame of the log at path to visit, and
// returns the last.
func (fs *FS) scanTail(path string, visit func(Tail)) (Tail, error) {
	kind, err := fs.kindOf(path)
	if err != nil {
		return Tail{}, err
	}
	if !kind.log() || kind == KindJournal {
		return Tail{}, fmt.Errorf("seal: %s is not a log with a tail", path)
	}
	h, err := fs.openAndRegister(path, kind, nil)
	if err != nil {
		return Tail{}, err
	}
	defer h.close()
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.aead == nil { // no header
		return Tail{}, nil
	}
	info, err := h.file.Stat()
	if err != nil {
		return Tail{}, fmt.Errorf("seal: read %s: %w", path, err)
	}
	size, _ := fs.liveOffset(path, info.Size())
	end, err := h.scan(logStart, size, func(f Frame, mark [markSize]byte, _ []byte) error {
		visit(Tail{Frames: f.Index + 1, Tag: mark})
		return nil
	})
	return end.Tail, err
}
