package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"sync"
)

// A frame is a word of 4 bytes (the length of its plaintext; the highest bit
// marks the final frame), then nonce, ciphertext and tag. The additional data is
// the frame's index in its file and the word.
//
// The plaintext of a log's frame begins with the length of the data (4 bytes)
// and a mark (16 bytes), and is filled up with zeros so that the whole frame is
// a multiple of a sector.
const (
	wordSize  = 4
	nonceSize = 12
	tagSize   = 16
	overhead  = wordSize + nonceSize + tagSize // bytes of a frame that are not plaintext
	finalBit  = 1 << 31

	sector    = 512
	markSize  = 16
	logPrefix = 4 + markSize

	// maxFrames is how many frames one file key seals at most. The bound of
	// SP 800-38D, section 8.3, for random nonces is 2^32.
	maxFrames = 1 << 31
)

// The most plaintext that a frame of a log holds. At most one frame of a log is
// not synced at any time, so this is also the most that a crash can tear.
const (
	maxJournalFrame = 16 << 20
	maxLogFrame     = 1 << 20
)

// MaxPayload is the most that Segment.Append takes at once, in bytes.
const MaxPayload = maxJournalFrame - overhead - logPrefix

var errFrame = errors.New("frame does not open")

// logFrameSize returns the size on disk of the log frame that holds n bytes.
func logFrameSize(n int) int {
	return (overhead + logPrefix + n + sector - 1) / sector * sector
}

// A scratch holds what sealing or opening a frame needs besides the result. The
// additional data is in it because it would otherwise be allocated every time.
type scratch struct {
	aad  [12]byte
	buf  []byte // sealed bytes
	text []byte // plaintext
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxPooled is the largest buffer that goes back to the pool.
const maxPooled = 1 << 20

func getScratch() *scratch { return scratches.Get().(*scratch) }

func (s *scratch) release() {
	if cap(s.buf) <= maxPooled && cap(s.text) <= maxPooled {
		scratches.Put(s)
	}
}

// sized returns b with length n, reallocated if need be; the content is not kept.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, max(n, 2*cap(b)))
	}
	return b[:n]
}

func (s *scratch) additional(index uint64, word uint32) []byte {
	binary.LittleEndian.PutUint64(s.aad[:], index)
	binary.LittleEndian.PutUint32(s.aad[8:], word)
	return s.aad[:]
}

// seal appends the frame of the given index to dst, which must not overlap text.
func (s *scratch) seal(dst []byte, aead cipher.AEAD, index uint64, final bool, text []byte) []byte {
	word := uint32(len(text))
	if final {
		word |= finalBit
	}
	dst = binary.LittleEndian.AppendUint32(dst, word)
	return aead.Seal(dst, nil, text, s.additional(index, word))
}

// open appends the plaintext of frame, whose word must be as given, to dst. What
// lies between dst's length and capacity may be overwritten, also on failure.
func (s *scratch) open(dst []byte, aead cipher.AEAD, index uint64, word uint32, frame []byte) ([]byte, error) {
	if binary.LittleEndian.Uint32(frame) != word {
		return nil, errFrame
	}
	text, err := aead.Open(dst, nil, frame[wordSize:], s.additional(index, word))
	if err != nil {
		return nil, errFrame
	}
	return text, nil
}

// logText lays out, in s.text, the plaintext of the log frame that holds data.
// A zero mark stands for the frame's own tag.
func (s *scratch) logText(mark [markSize]byte, data []byte) []byte {
	s.text = sized(s.text, logFrameSize(len(data))-overhead)
	binary.LittleEndian.PutUint32(s.text, uint32(len(data)))
	copy(s.text[4:], mark[:])
	n := copy(s.text[logPrefix:], data)
	clear(s.text[logPrefix+n:])
	return s.text
}

// logData returns the data in the plaintext of a log frame, and the frame's
// mark, given its tag.
func logData(text, tag []byte) (data []byte, mark [markSize]byte, err error) {
	n := int64(binary.LittleEndian.Uint32(text))
	if n > int64(len(text)-logPrefix) {
		return nil, mark, errFrame
	}
	copy(mark[:], text[4:])
	if mark == ([markSize]byte{}) {
		copy(mark[:], tag)
	}
	return text[logPrefix : logPrefix+n], mark, nil
}

// logWord reports whether word can be that of a log's frame of at most limit
// bytes of plaintext, and returns the frame's size on disk.
func logWord(word uint32, limit int) (size int64, ok bool) {
	size = int64(word) + overhead
	return size, word != 0 && word&finalBit == 0 && int64(word) <= int64(limit) && size%sector == 0
}
