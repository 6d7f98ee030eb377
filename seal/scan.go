package seal

import (
	"encoding/binary"
)

// A Tail says how far a log reaches: how many frames it has, and the mark of the
// last of them. Recorded elsewhere, it shows later whether the log was cut or
// put back. The mark of a frame is its authentication tag, and stays what it was
// when the file is resealed.
type Tail struct {
	Frames uint64
	Tag    [markSize]byte
}

// A Frame says where a frame of a journal segment stands. It stays valid when
// the segment is resealed.
type Frame struct {
	Offset int64  // in the sealed file, in bytes
	Index  uint64 // from 0
}

// A SegmentEnd says where a log ends.
type SegmentEnd struct {
	Tail   Tail
	Offset int64 // of the first byte after the last frame, in the sealed file
	// Torn says that there is more behind Offset: the frame that was being
	// written when the machine stopped. It had not been synced.
	Torn bool
	// Ended says that the segment has an end mark: its writer went on to the
	// next one.
	Ended bool
}

// logStart is where the frames of a log begin.
var logStart = SegmentEnd{Offset: headerSize}

// scan opens one frame after the other of a log, from start on and up to the
// given physical size, and gives them to visit, which must not keep data. Where
// no further frame opens it decides, by the rules of FORMAT.md, whether the log
// ends there, or ends there with a torn frame, or has been altered.
//
// The caller holds h.mu from before it determined size.
func (h *handle) scan(start SegmentEnd, size int64, visit visitFunc) (SegmentEnd, error) {
	w := window{h: h, size: size}
	s := getScratch()
	defer s.release()
	end := start
	for end.Offset < size {
		head, err := w.at(end.Offset, wordSize)
		if err != nil {
			return end, err
		}
		if len(head) < wordSize {
			break
		}
		word := binary.LittleEndian.Uint32(head)
		n, ok := logWord(word, h.hdr.frameSize)
		if !ok || end.Offset+n > size {
			break
		}
		frame, err := w.at(end.Offset, int(n))
		if err != nil {
			return end, err
		}
		data, mark, err := h.openLogFrame(s, end.Tail.Frames, word, frame)
		if err != nil {
			break
		}
		if err := visit(Frame{Offset: end.Offset, Index: end.Tail.Frames}, mark, data); err != nil {
			return end, err
		}
		end.Tail = Tail{Frames: end.Tail.Frames + 1, Tag: mark}
		end.Offset += n
	}
	var err error
	end.Torn, err = h.classify(&w, s, end.Offset, end.Tail.Frames)
	return end, err
}

type visitFunc func(f Frame, mark [markSize]byte, data []byte) error

// openLogFrame opens a frame of a log. What it returns is valid until s is used
// again.
func (h *handle) openLogFrame(s *scratch, index uint64, word uint32, frame []byte) ([]byte, [markSize]byte, error) {
	s.text = sized(s.text, len(frame)-overhead)
	text, err := s.open(s.text[:0], h.aead, index, word, frame)
	if err != nil {
		return nil, [markSize]byte{}, err
	}
	h.kind.countOpened(1, len(text))
	return logData(text, frame[len(frame)-tagSize:])
}

// classify decides what it means that no frame of the given index opens at
// offset, where all before it is authentic. It returns false if the log simply
// ends there, true if a torn frame stands there, and an error if something was
// altered.
//
// At most one frame is not synced at any time, sectors are written whole, and
// what is not written yet is zero. So a crash leaves, behind the last synced
// frame, at most one frame's worth of sectors, each either written or zero.
// Anything else was not left by a crash.
func (h *handle) classify(w *window, s *scratch, offset int64, index uint64) (torn bool, err error) {
	end, err := w.lastNonZero(offset)
	if err != nil || end == offset {
		return false, err
	}
	first, err := w.at(offset, sector)
	if err != nil {
		return false, err
	}
	if lastNonZero(first) == 0 {
		return h.classifyHeadless(w, s, offset, end, index)
	}
	var word uint32
	if len(first) >= wordSize {
		word = binary.LittleEndian.Uint32(first)
	}
	n, ok := logWord(word, h.hdr.frameSize)
	switch {
	case len(first) < sector:
		return true, nil // cut within a sector: the file's size was not synced either
	case !ok || h.kind == KindJournal && offset+n > w.size:
		return false, altered(h.kind, h.name, offset, "a frame has an impossible length")
	case end > offset+n:
		return false, altered(h.kind, h.name, offset, "a frame does not open, and it is not the last")
	}
	frame, err := w.at(offset, int(n))
	if err != nil {
		return false, err
	}
	if int64(len(frame)) == n && !hasZeroSector(frame) {
		return false, altered(h.kind, h.name, offset, "the last frame is complete but does not open")
	}
	// The last sector of a whole frame holds its tag and is not zero. If the
	// frame opens when it is taken to end there, then only its length was changed.
	if n = end - offset; n <= int64(len(frame)) {
		word = uint32(n - overhead)
		binary.LittleEndian.PutUint32(frame, word)
		if _, _, err := h.openLogFrame(s, index, word, frame[:n]); err == nil {
			return false, altered(h.kind, h.name, offset, "the length of the last frame was changed")
		}
		frame = frame[:n]
	}
	// The length is not authentic: it may have been made to reach over frames
	// that are whole.
	if h.holdsFrame(s, index+1, frame) {
		return false, altered(h.kind, h.name, offset, "a frame does not open, and the one behind it is whole")
	}
	return true, nil
}

// holdsFrame returns whether the frame of the given index stands in b, in any
// sector but the first.
func (h *handle) holdsFrame(s *scratch, index uint64, b []byte) bool {
	for i := sector; i+sector <= len(b); i += sector {
		word := binary.LittleEndian.Uint32(b[i:])
		n, ok := logWord(word, h.hdr.frameSize)
		if !ok || i+int(n) > len(b) {
			continue
		}
		if _, _, err := h.openLogFrame(s, index, word, b[i:i+int(n)]); err == nil {
			return true
		}
	}
	return false
}

// classifyHeadless is classify for a frame whose first sector is zero, and with
// it the frame's length. end is where the last sector that is not zero ends.
func (h *handle) classifyHeadless(w *window, s *scratch, offset, end int64, index uint64) (torn bool, err error) {
	if end-offset > (int64(h.hdr.frameSize)+overhead)/sector*sector {
		return false, altered(h.kind, h.name, offset, "a frame has lost its beginning, and it is not the last")
	}
	rest, err := w.at(offset, int(end-offset))
	if err != nil {
		return false, err
	}
	if h.holdsFrame(s, index+1, rest) {
		return false, altered(h.kind, h.name, offset, "a frame has lost its beginning, and the one behind it is whole")
	}
	return true, nil
}

// A window reads a file in large pieces.
type window struct {
	h      *handle
	size   int64 // of the file
	offset int64 // of data
	data   []byte
}

// windowSize is how much of a file is read at once.
const windowSize = 1 << 20

// at returns n bytes at offset, or fewer if the file ends before. They are valid,
// and may be changed, until the next call.
func (w *window) at(offset int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.size-offset))
	if offset < w.offset || offset+int64(n) > w.offset+int64(len(w.data)) {
		w.data = sized(w.data, int(min(int64(max(n, windowSize)), w.size-offset)))
		w.offset = offset
		if err := w.h.readAt(w.data, offset); err != nil {
			w.data = w.data[:0]
			return nil, err
		}
	}
	i := offset - w.offset
	return w.data[i : i+int64(n) : i+int64(n)], nil
}

// lastNonZero returns where the last sector at or behind offset ends that is not
// zero, or offset if there is none. offset is a multiple of a sector.
func (w *window) lastNonZero(offset int64) (int64, error) {
	last := offset
	for at := offset; at < w.size; at += windowSize {
		b, err := w.at(at, windowSize)
		if err != nil {
			return 0, err
		}
		if i := lastNonZero(b); i > 0 {
			last = at + int64(i+sector-1)/sector*sector
		}
	}
	return last, nil
}

// lastNonZero returns the index after the last byte of b that is not zero.
func lastNonZero(b []byte) int {
	for len(b) >= 8 && binary.LittleEndian.Uint64(b[len(b)-8:]) == 0 {
		b = b[:len(b)-8]
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return len(b)
}

func hasZeroSector(b []byte) bool {
	for len(b) >= sector {
		if lastNonZero(b[:sector]) == 0 {
			return true
		}
		b = b[sector:]
	}
	return false
}
