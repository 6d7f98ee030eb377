package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferkv/coffer/keyring"
)

// The header is the first sector of a file. FORMAT.md gives it to the byte.
const (
	headerSize = 512
	tagOffset  = headerSize - 32
	nameOffset = 96
	maxName    = 255

	magic   = "COFFERSF"
	version = 1
	suite   = 1 // HKDF-SHA256, AES-256-GCM with random nonces

	labelHeader = "coffer file v1"
)

var errNotSealed = errors.New("not a sealed file, or its header is damaged: if another program has put it there, move it elsewhere")

type header struct {
	kind      Kind
	frameSize int   // plaintext bytes: of every frame but the last, or, in logs, at most
	length    int64 // of a journal segment, in bytes; else 0
	member    keyring.Member
	key       keyring.ID
	salt      [32]byte
	name      string // base name under which the file may be opened
}

// newHeader returns the header of a new file under the active key.
func (fs *FS) newHeader(kind Kind, base string, length int64) (header, error) {
	if len(base) > maxName {
		return header{}, fmt.Errorf("its name is longer than %d bytes", maxName)
	}
	h := header{kind: kind, length: length, member: fs.member, key: fs.kr.Active(), name: base}
	switch {
	case kind == KindJournal:
		h.frameSize = maxJournalFrame
	case kind.log():
		h.frameSize = maxLogFrame
	default:
		h.frameSize = fs.tableFrame
	}
	rand.Read(h.salt[:])
	return h, nil
}

// encode returns the header without its tag: the last 32 bytes are zero.
func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	copy(b, magic)
	le.PutUint16(b[8:], version)
	le.PutUint16(b[10:], suite)
	le.PutUint32(b[12:], uint32(h.frameSize))
	b[16] = byte(h.kind)
	b[17] = byte(len(h.name))
	le.PutUint64(b[24:], uint64(h.length))
	le.PutUint64(b[32:], h.member.ClusterID)
	le.PutUint64(b[40:], h.member.MemberID)
	copy(b[48:], h.key[:])
	copy(b[64:], h.salt[:])
	copy(b[nameOffset:], h.name)
	return b
}

// sealHeader returns the header's bytes, tag included, and the file key.
func (fs *FS) sealHeader(h *header) ([]byte, cipher.AEAD, error) {
	b := h.encode()
	aead, tag, err := fs.fileKey(h.key, b)
	if err != nil {
		return nil, nil, err
	}
	copy(b[tagOffset:], tag[:])
	return b, aead, nil
}

func (fs *FS) fileKey(id keyring.ID, b []byte) (cipher.AEAD, [32]byte, error) {
	info := make([]byte, 0, len(labelHeader)+tagOffset)
	info = append(append(info, labelHeader...), b[:tagOffset]...)
	return fs.kr.FileKey(id, b[64:96], info)
}

// parseHeader reads a header without authenticating it.
func parseHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if len(b) != headerSize || string(b[:8]) != magic {
		return header{}, errNotSealed
	}
	if v, s := le.Uint16(b[8:]), le.Uint16(b[10:]); v != version || s != suite {
		return header{}, fmt.Errorf("its format is version %d, suite %d; this program knows version %d, suite %d: use a newer program",
			v, s, version, suite)
	}
	h := header{
		frameSize: int(le.Uint32(b[12:])),
		kind:      Kind(b[16]),
		length:    int64(le.Uint64(b[24:])),
		member:    keyring.Member{ClusterID: le.Uint64(b[32:]), MemberID: le.Uint64(b[40:])},
		name:      string(b[nameOffset : nameOffset+int(b[17])]),
	}
	copy(h.key[:], b[48:])
	copy(h.salt[:], b[64:])
	return h, nil
}

// openHeader authenticates the header of the file at path and returns what it
// says and the file key.
func (fs *FS) openHeader(path string, b []byte) (header, cipher.AEAD, error) {
	base := fs.base.PathBase(path)
	unready := strings.HasPrefix(base, unfinished) // its header may still name what it was before
	kind, ok := KindOf(finalBase(base))
	if !ok {
		return header{}, nil, fmt.Errorf("seal: open %s: no kind of file has such a name", path)
	}
	h, err := parseHeader(b)
	if err != nil {
		metricsOf[kind].openFailures.Inc()
		return header{}, nil, fmt.Errorf("seal: open %s: %w", path, err)
	}
	if h.member != fs.member {
		metricsOf[kind].openFailures.Inc()
		return header{}, nil, fmt.Errorf("seal: open %s: it belongs to member %v, this is member %v: "+
			"start with the data directory of this member", path, h.member, fs.member)
	}
	aead, tag, err := fs.fileKey(h.key, b)
	if err != nil {
		metricsOf[kind].openFailures.Inc()
		return header{}, nil, fmt.Errorf("seal: open %s: %w", path, err)
	}
	switch {
	case subtle.ConstantTimeCompare(tag[:], b[tagOffset:]) != 1:
		return header{}, nil, altered(kind, path, 0, "its header is not authentic")
	case h.name != base && !unready:
		return header{}, nil, altered(kind, path, 0, "it was written as %q", h.name)
	case h.kind != kind:
		return header{}, nil, altered(kind, path, 0, "it was written as %v, not %v", h.kind, kind)
	}
	return h, aead, nil
}
