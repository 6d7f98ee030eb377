package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"time"

	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
)

// A snapshot is a sealed stream that stands alone: it carries its own key,
// wrapped under every KEK that was in force, and needs nothing of any data
// directory. FORMAT.md gives it to the byte.
const (
	snapshotMagic   = "COFFERSN"
	snapshotVersion = 1
	snapshotFrame   = 64 << 10 // bytes of a frame as written, but for the last
	snapshotFixed   = 88       // bytes of the header before the wraps
	maxSnapshotHead = 1 << 20

	labelSnapshot    = "coffer snapshot v1"
	labelSnapshotKey = "coffer snapshot key v1"
)

// snapshotData is how much data a frame holds.
const snapshotData = snapshotFrame - overhead - logPrefix

// SnapshotMeta is what a snapshot says of itself. It can be read without a key,
// and is authenticated when the snapshot is opened.
type SnapshotMeta struct {
	Member   keyring.Member
	Revision int64     // current revision in it
	Created  time.Time // to the nanosecond, UTC
	// KEKs are those that open it. NewSnapshotWriter sets them, whatever was given.
	KEKs []keyring.Wrap
}

type snapshotWriter struct {
	w      io.Writer
	sum    hash.Hash
	aead   cipher.AEAD
	frames uint64
	data   []byte
	frame  []byte
	err    error
}

// NewSnapshotWriter starts a snapshot on w. What is written to it can be read
// back with any one of the KEKs in force. Close, which does not close w, ends
// it; without Close it does not open. The whole stream, in bytes, is 32 more
// than a multiple of 512: a SHA-256 of all before stands at its end, as etcd's
// tools expect.
func NewSnapshotWriter(w io.Writer, kr *keyring.Keyring, meta SnapshotMeta) (io.WriteCloser, error) {
	s := &snapshotWriter{w: w, sum: sha256.New()}
	head, err := s.begin(kr, meta)
	if err != nil {
		return nil, fmt.Errorf("seal: begin a snapshot: %w", err)
	}
	if err := s.emit(head); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *snapshotWriter) begin(kr *keyring.Keyring, meta SnapshotMeta) ([]byte, error) {
	key, err := kms.NewSecret(keyring.KeySize)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	rand.Read(key.Bytes())
	var salt [32]byte
	rand.Read(salt[:])
	if meta.KEKs, err = kr.WrapKey(key.Bytes(), snapshotContext(salt[:])); err != nil {
		return nil, err
	}
	head, err := encodeSnapshotHead(meta, salt[:])
	if err != nil {
		return nil, err
	}
	var tag [32]byte
	s.aead, tag, err = snapshotFileKey(key, salt[:], head)
	copy(head[len(head)-len(tag):], tag[:])
	return head, err
}

func snapshotContext(salt []byte) []byte { return append([]byte(labelSnapshotKey), salt...) }

func snapshotFileKey(key *kms.Secret, salt, head []byte) (cipher.AEAD, [32]byte, error) {
	info := append([]byte(labelSnapshot), head[:len(head)-32]...)
	return keyring.DeriveFileKey(key.Bytes(), salt, info)
}

// encodeSnapshotHead returns the header, its tag zero.
func encodeSnapshotHead(meta SnapshotMeta, salt []byte) ([]byte, error) {
	le := binary.LittleEndian
	b := append([]byte(nil), snapshotMagic...)
	b = le.AppendUint16(b, snapshotVersion)
	b = le.AppendUint16(b, suite)
	b = le.AppendUint32(b, 0) // length of the header, below
	b = le.AppendUint32(b, snapshotFrame)
	b = le.AppendUint32(b, uint32(len(meta.KEKs)))
	b = le.AppendUint64(b, meta.Member.ClusterID)
	b = le.AppendUint64(b, meta.Member.MemberID)
	b = le.AppendUint64(b, uint64(meta.Revision))
	b = le.AppendUint64(b, uint64(meta.Created.UnixNano()))
	b = append(b, salt...)
	for _, w := range meta.KEKs {
		for _, field := range [][]byte{[]byte(w.KEK), []byte(w.URI), w.Wrapped} {
			if len(field) > math.MaxUint16 {
				return nil, fmt.Errorf("a wrapped key, or the name of its KEK, has %d bytes, which is too long", len(field))
			}
			b = le.AppendUint16(b, uint16(len(field)))
			b = append(b, field...)
		}
	}
	b = append(b, make([]byte, 32)...)
	b = append(b, make([]byte, (sector-len(b)%sector)%sector)...)
	if len(b) > maxSnapshotHead {
		return nil, fmt.Errorf("its header would have %d bytes: fewer KEKs must be in force", len(b))
	}
	le.PutUint32(b[12:], uint32(len(b)))
	return b, nil
}

// Write adds p to the snapshot.
func (s *snapshotWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		if len(s.data) == snapshotData {
			s.seal(false)
		}
		part := min(len(p), snapshotData-len(s.data))
		s.data = append(s.data, p[:part]...)
		p = p[part:]
	}
	if s.err != nil {
		return 0, s.err
	}
	return n, nil
}

// Close writes what is left, the final frame and the checksum.
func (s *snapshotWriter) Close() error {
	if s.err != nil {
		return s.err
	}
	s.seal(true)
	if s.err == nil {
		s.emit(s.sum.Sum(nil))
	}
	if s.err != nil {
		return s.err
	}
	s.err = errors.New("seal: write a snapshot: it is closed")
	return nil
}

// seal seals and writes the pending data.
func (s *snapshotWriter) seal(final bool) {
	if s.frames >= maxFrames {
		s.err = fmt.Errorf("seal: write a snapshot: it has %d frames, and its key may not seal more", s.frames)
		return
	}
	scratch := getScratch()
	defer scratch.release()
	text := scratch.logText([markSize]byte{}, s.data)
	s.frame = scratch.seal(s.frame[:0], s.aead, s.frames, final, text)
	s.frames++
	s.data = s.data[:0]
	KindSnapshot.countSealed(1, len(text))
	s.emit(s.frame)
}

func (s *snapshotWriter) emit(b []byte) error {
	s.sum.Write(b)
	if _, err := s.w.Write(b); err != nil {
		s.err = fmt.Errorf("seal: write a snapshot: %w", err)
	}
	return s.err
}

// A SnapshotReader reads the content of a snapshot. io.EOF comes after
// everything, final frame and checksum included, was found authentic; until then
// what was read may be the beginning of something that was cut.
type SnapshotReader struct {
	meta  SnapshotMeta
	r     io.Reader
	sum   hash.Hash
	aead  cipher.AEAD
	index uint64
	pos   int64 // in the stream
	frame []byte
	text  []byte
	data  []byte // what is not read yet of text
	err   error
}

// OpenSnapshot starts reading a snapshot from r with whichever of keks opens it.
// The header is authentic when it returns.
func OpenSnapshot(r io.Reader, keks ...*kms.KEK) (*SnapshotReader, error) {
	head, meta, salt, err := readSnapshotHead(r)
	if err != nil {
		return nil, err
	}
	key, err := kms.NewSecret(keyring.KeySize)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if err := keyring.UnwrapKey(key.Bytes(), meta.KEKs, snapshotContext(salt), keks...); err != nil {
		return nil, fmt.Errorf("seal: open a snapshot: %w", err)
	}
	aead, tag, err := snapshotFileKey(key, salt, head)
	if err != nil {
		return nil, fmt.Errorf("seal: open a snapshot: %w", err)
	}
	if subtle.ConstantTimeCompare(tag[:], head[len(head)-len(tag):]) != 1 {
		return nil, snapshotAltered(0, "its header is not authentic")
	}
	s := &SnapshotReader{meta: meta, r: r, sum: sha256.New(), aead: aead, pos: int64(len(head))}
	s.sum.Write(head)
	return s, nil
}

// ReadSnapshotMeta returns what the snapshot on r says of itself, the KEKs that
// open it included. It needs no key, and cannot tell whether it is true.
func ReadSnapshotMeta(r io.Reader) (SnapshotMeta, error) {
	_, meta, _, err := readSnapshotHead(r)
	return meta, err
}

func snapshotAltered(offset int64, format string, args ...any) error {
	metricsOf[KindSnapshot].openFailures.Inc()
	return &SnapshotError{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// A SnapshotError says that a snapshot is not what was written, as Error does of
// a member's files.
type SnapshotError struct {
	Offset int64 // in bytes from its beginning
	Reason string
}

// Error says where and why.
func (e *SnapshotError) Error() string {
	return fmt.Sprintf("seal: the snapshot is altered, damaged or incomplete: at offset %d: %s; use another copy", e.Offset, e.Reason)
}

// readSnapshotHead reads and takes apart the header.
func readSnapshotHead(r io.Reader) (head []byte, meta SnapshotMeta, salt []byte, err error) {
	le := binary.LittleEndian
	head = make([]byte, sector)
	if err := readFull(r, head, 0); err != nil {
		return nil, meta, nil, err
	}
	if string(head[:8]) != snapshotMagic {
		return nil, meta, nil, errors.New("seal: open a snapshot: this is not one of Coffer's")
	}
	if v, u := le.Uint16(head[8:]), le.Uint16(head[10:]); v != snapshotVersion || u != suite {
		return nil, meta, nil, fmt.Errorf("seal: open a snapshot: its format is version %d, suite %d; this program knows version %d, suite %d: "+
			"use a newer program", v, u, snapshotVersion, suite)
	}
	size := int(le.Uint32(head[12:]))
	if size < sector || size > maxSnapshotHead || size%sector != 0 || le.Uint32(head[16:]) != snapshotFrame {
		return nil, meta, nil, snapshotAltered(12, "its header has an impossible size")
	}
	head = append(head, make([]byte, size-sector)...)
	if err := readFull(r, head[sector:], sector); err != nil {
		return nil, meta, nil, err
	}
	meta.Member = keyring.Member{ClusterID: le.Uint64(head[24:]), MemberID: le.Uint64(head[32:])}
	meta.Revision = int64(le.Uint64(head[40:]))
	meta.Created = time.Unix(0, int64(le.Uint64(head[48:]))).UTC()
	salt = head[56:snapshotFixed]
	rest := head[snapshotFixed : size-32]
	field := func() []byte {
		if len(rest) < 2 || len(rest) < 2+int(le.Uint16(rest)) {
			rest = nil
			return nil
		}
		n := int(le.Uint16(rest))
		f := rest[2 : 2+n : 2+n]
		rest = rest[2+n:]
		return f
	}
	for n := le.Uint32(head[20:]); n > 0 && rest != nil; n-- {
		meta.KEKs = append(meta.KEKs, keyring.Wrap{KEK: string(field()), URI: string(field()), Wrapped: field()})
	}
	if rest == nil {
		return nil, meta, nil, snapshotAltered(snapshotFixed, "its list of KEKs does not fit into its header")
	}
	return head, meta, salt, nil
}

// readFull fills b; a stream that ends within it is an error that is not io.EOF.
func readFull(r io.Reader, b []byte, offset int64) error {
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return snapshotAltered(offset+int64(n), "it ends here, before its end")
	}
	if err != nil {
		return fmt.Errorf("seal: read a snapshot at offset %d: %w", offset+int64(n), err)
	}
	return nil
}

// Meta returns what the snapshot says of itself.
func (s *SnapshotReader) Meta() SnapshotMeta { return s.meta }

// Read reads content that is authentic, and io.EOF at its end.
func (s *SnapshotReader) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.err = s.next()
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// next opens the next frame into s.data. With the last frame it returns io.EOF.
func (s *SnapshotReader) next() error {
	s.frame = sized(s.frame, snapshotFrame)
	if err := readFull(s.r, s.frame[:wordSize], s.pos); err != nil {
		return err
	}
	word := binary.LittleEndian.Uint32(s.frame)
	final := word&finalBit != 0
	n := int64(word&^finalBit) + overhead
	if n > snapshotFrame || n%sector != 0 || !final && n != snapshotFrame {
		return snapshotAltered(s.pos, "a frame has an impossible length")
	}
	frame := s.frame[:n]
	if err := readFull(s.r, frame[wordSize:], s.pos+wordSize); err != nil {
		return err
	}
	scratch := getScratch()
	defer scratch.release()
	s.text = sized(s.text, int(n)-overhead)
	text, err := scratch.open(s.text[:0], s.aead, s.index, word, frame)
	if err == nil {
		s.data, _, err = logData(text, frame[n-tagSize:])
	}
	if err != nil {
		return snapshotAltered(s.pos, "frame %d does not open", s.index)
	}
	KindSnapshot.countOpened(1, len(text))
	s.sum.Write(frame)
	s.index++
	s.pos += n
	if !final {
		return nil
	}
	if err := s.checkEnd(); err != nil {
		s.data = nil
		return err
	}
	return io.EOF
}

// checkEnd checks that the checksum follows, and nothing else.
func (s *SnapshotReader) checkEnd() error {
	var end [sha256.Size + 1]byte
	n, err := io.ReadFull(s.r, end[:])
	switch {
	case err == nil:
		return snapshotAltered(s.pos+sha256.Size, "something follows its end")
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("seal: read a snapshot at offset %d: %w", s.pos, err)
	case n < sha256.Size:
		return snapshotAltered(s.pos+int64(n), "it ends here, before its end")
	case string(end[:sha256.Size]) != string(s.sum.Sum(nil)):
		return snapshotAltered(s.pos, "its checksum is wrong")
	}
	return nil
}
