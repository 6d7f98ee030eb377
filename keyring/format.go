package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cofferkv/coffer/kms"
)

// The file KEYRING. Integers are little-endian; times are nanoseconds since
// 1970 UTC, 0 for none.
//
//	magic "COFFERKR"                            8
//	version 1, suite 1                          2 + 2
//	cluster id, member id, generation           8 + 8 + 8
//	number of wraps                             2
//	  KEK id, URI                               2 + length each
//	  created, since, until                     8 + 8 + 8
//	  commitment to the keyring key             32
//	  wrapped keyring key, none once retired    2 + length
//	number of keys                              2
//	  key id                                    16
//	  commitment to the key, zero once removed  32
//	  sealed entry                              28 + 105: AES-256-GCM, nonce in front, of
//	    state                                     1
//	    created, deactivated, removed             8 + 8 + 8
//	    since, until                              8 + 8
//	    key, zero once removed                    64
//	MAC                                         32: HMAC-SHA256 over all of the above
//
// Suite 1: AES-256-GCM, HKDF-SHA256, HMAC-SHA256. With R the keyring key and D a
// data key, all HKDF without salt unless one is named:
//
//	wrap context       "coffer keyring v1", cluster id, member id
//	commitment to R    HKDF(R, "coffer keyring commit v1")
//	MAC key            HKDF(R, "coffer keyring mac v1")
//	entry key          HKDF(R, salt: key id, "coffer keyring entry v1")
//	entry's additional data  "coffer keyring v1", cluster id, member id, key id
//	commitment to D    HKDF(D, "coffer data key commit v1")
const (
	magic   = "COFFERKR"
	version = 1
	suite   = 1

	entrySize = 1 + 5*8 + KeySize
	gcmExtra  = 12 + 16 // nonce and tag
	macSize   = 32

	labelWrap       = "coffer keyring v1"
	labelRootCommit = "coffer keyring commit v1"
	labelMAC        = "coffer keyring mac v1"
	labelEntry      = "coffer keyring entry v1"
	labelKeyCommit  = "coffer data key commit v1"
)

// ErrAltered is in the chain of the error for a keyring that is not, byte for
// byte, what its member wrote.
var ErrAltered = errors.New("the keyring has been altered or damaged: restore it from a copy of the data directory")

func wrapContext(m Member) []byte {
	b := []byte(labelWrap)
	b = binary.LittleEndian.AppendUint64(b, m.ClusterID)
	return binary.LittleEndian.AppendUint64(b, m.MemberID)
}

// derive returns 32 bytes of HKDF-SHA256 over a key in secret memory.
func derive(k *kms.Secret, salt []byte, info string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.Bytes(), salt, info, 32)
}

func (s *state) encode() ([]byte, error) {
	le := binary.LittleEndian
	b := append([]byte(nil), magic...)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, suite)
	b = le.AppendUint64(b, s.member.ClusterID)
	b = le.AppendUint64(b, s.member.MemberID)
	b = le.AppendUint64(b, s.generation)
	commitment, err := derive(s.root, nil, labelRootCommit)
	if err != nil {
		return nil, err
	}
	if len(s.wraps) > math.MaxUint16 || len(s.keys) > math.MaxUint16 {
		return nil, fmt.Errorf("too many keys (%d) or KEKs (%d)", len(s.keys), len(s.wraps))
	}
	b = le.AppendUint16(b, uint16(len(s.wraps)))
	for _, w := range s.wraps {
		for _, field := range [][]byte{[]byte(w.kek), []byte(w.uri)} {
			if b, err = appendBytes(b, field); err != nil {
				return nil, err
			}
		}
		b = appendTime(b, w.created)
		b = le.AppendUint64(b, w.since)
		b = le.AppendUint64(b, w.until)
		if w.until == 0 {
			b = append(b, commitment...)
		} else {
			b = append(b, make([]byte, 32)...)
		}
		if b, err = appendBytes(b, w.wrapped); err != nil {
			return nil, err
		}
	}
	b = le.AppendUint16(b, uint16(len(s.keys)))
	for _, k := range s.keys {
		if b, err = s.appendKey(b, k); err != nil {
			return nil, err
		}
	}
	mac, err := s.mac(b)
	if err != nil {
		return nil, err
	}
	return append(b, mac...), nil
}

func (s *state) appendKey(b []byte, k key) ([]byte, error) {
	le := binary.LittleEndian
	b = append(b, k.id[:]...)
	commitment := make([]byte, 32)
	if k.secret != nil {
		var err error
		if commitment, err = derive(k.secret, nil, labelKeyCommit); err != nil {
			return nil, err
		}
	}
	b = append(b, commitment...)
	plain, err := kms.NewSecret(entrySize)
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	p := append(plain.Bytes()[:0], byte(k.state))
	p = appendTime(p, k.created)
	p = appendTime(p, k.deactivated)
	p = appendTime(p, k.removed)
	p = le.AppendUint64(p, k.since)
	p = le.AppendUint64(p, k.until)
	if k.secret != nil {
		copy(plain.Bytes()[len(p):], k.secret.Bytes())
	}
	aead, err := s.entryAEAD(k.id)
	if err != nil {
		return nil, err
	}
	return aead.Seal(b, nil, plain.Bytes(), append(wrapContext(s.member), k.id[:]...)), nil
}

func (s *state) entryAEAD(id ID) (cipher.AEAD, error) {
	k, err := derive(s.root, id[:], labelEntry)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s *state) mac(data []byte) ([]byte, error) {
	k, err := derive(s.root, nil, labelMAC)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	h := hmac.New(sha256.New, k)
	h.Write(data)
	return h.Sum(nil), nil
}

// decode reads what encode wrote, and opens it with whichever of keks wraps it.
func decode(data []byte, keks []*kms.KEK) (*state, error) {
	f, err := parse(data)
	if err != nil {
		return nil, err
	}
	s := &f.state
	if err := s.unwrapRoot(f.commitments, keks); err != nil {
		s.wipe()
		return nil, err
	}
	mac, err := s.mac(data[:len(data)-macSize])
	if err == nil && subtle.ConstantTimeCompare(mac, f.mac) != 1 {
		err = fmt.Errorf("its MAC is wrong: %w", ErrAltered)
	}
	if err == nil {
		err = s.openEntries(f.entries)
	}
	if err != nil {
		s.wipe()
		return nil, err
	}
	return s, nil
}

// unwrapRoot fills s.root. commitments belong to s.wraps, one each.
func (s *state) unwrapRoot(commitments [][]byte, keks []*kms.KEK) error {
	root, err := kms.NewSecret(KeySize)
	if err != nil {
		return err
	}
	s.root = root
	opened := false
	var inForce []string
	for i := range s.wraps {
		w := &s.wraps[i]
		if w.until != 0 {
			continue
		}
		inForce = append(inForce, w.String())
		for _, kek := range keks {
			if kek.ID() != w.kek {
				continue
			}
			w.by = kek
			if opened {
				continue // one device call at start is enough
			}
			if err := kek.Unwrap(root.Bytes(), w.wrapped, wrapContext(s.member)); err != nil {
				return fmt.Errorf("open the wrap by %s: %w: %w", w, err, ErrAltered)
			}
			commitment, err := derive(root, nil, labelRootCommit)
			if err != nil {
				return err
			}
			if subtle.ConstantTimeCompare(commitment, commitments[i]) != 1 {
				return fmt.Errorf("the wrap by %s holds another key than it says: %w", w, ErrAltered)
			}
			opened = true
		}
	}
	if !opened {
		var given []string
		for _, kek := range keks {
			given = append(given, fmt.Sprintf("%s (id %s)", kek.URI(), kek.ID()))
		}
		return fmt.Errorf("it opens with %s, not with %s: name the right KEK; if its file was replaced, put the old key back",
			strings.Join(inForce, " or "), strings.Join(given, " or "))
	}
	return nil
}

// openEntries fills s.keys, which have only their ids yet.
func (s *state) openEntries(entries []entry) error {
	plain, err := kms.NewSecret(entrySize)
	if err != nil {
		return err
	}
	defer plain.Wipe()
	actives := 0
	for i, e := range entries {
		k := &s.keys[i]
		aead, err := s.entryAEAD(k.id)
		if err != nil {
			return err
		}
		if _, err := aead.Open(plain.Bytes()[:0], nil, e.sealed, append(wrapContext(s.member), k.id[:]...)); err != nil {
			return fmt.Errorf("the entry of key %v does not open: %w", k.id, ErrAltered)
		}
		r := reader{b: plain.Bytes()[:entrySize-KeySize]}
		k.state = State(r.bytes(1)[0])
		k.created, k.deactivated, k.removed = r.time(), r.time(), r.time()
		k.since, k.until = r.uint64(), r.uint64()
		switch k.state {
		case Active:
			actives++
		case DecryptOnly:
		case Removed:
			continue
		default:
			return fmt.Errorf("key %v is in %v, which this version does not know", k.id, k.state)
		}
		if k.secret, err = kms.NewSecret(KeySize); err != nil {
			return err
		}
		copy(k.secret.Bytes(), plain.Bytes()[entrySize-KeySize:])
		commitment, err := derive(k.secret, nil, labelKeyCommit)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(commitment, e.commitment) != 1 {
			return fmt.Errorf("the entry of key %v holds another key than it says: %w", k.id, ErrAltered)
		}
	}
	if actives != 1 {
		return fmt.Errorf("%d keys are active, not one: %w", actives, ErrAltered)
	}
	return nil
}

// A parsed file, before anything in it is authenticated.
type file struct {
	state       state    // wraps whole; keys with ids only
	commitments [][]byte // of state.wraps
	entries     []entry  // of state.keys
	mac         []byte
}

type entry struct{ commitment, sealed []byte }

// parse splits the file into its fields. It fails on anything but a whole file
// of this version, and keeps slices of data.
func parse(data []byte) (*file, error) {
	r := reader{b: data}
	if string(r.bytes(len(magic))) != magic {
		return nil, fmt.Errorf("it is not a keyring: %w", ErrAltered)
	}
	if v, u := r.uint16(), r.uint16(); !r.short && (v != version || u != suite) {
		return nil, fmt.Errorf("its format is version %d, suite %d; this program knows version %d, suite %d: use a newer program",
			v, u, version, suite)
	}
	f := &file{}
	s := &f.state
	s.member = Member{ClusterID: r.uint64(), MemberID: r.uint64()}
	s.generation = r.uint64()
	for n := r.uint16(); n > 0 && !r.short; n-- {
		w := wrap{kek: string(r.sized()), uri: string(r.sized()), created: r.time(), since: r.uint64(), until: r.uint64()}
		f.commitments = append(f.commitments, r.bytes(32))
		w.wrapped = r.sized()
		s.wraps = append(s.wraps, w)
	}
	for n := r.uint16(); n > 0 && !r.short; n-- {
		k := key{}
		copy(k.id[:], r.bytes(len(k.id)))
		s.keys = append(s.keys, k)
		f.entries = append(f.entries, entry{commitment: r.bytes(32), sealed: r.bytes(gcmExtra + entrySize)})
	}
	f.mac = r.bytes(macSize)
	if r.short || len(r.b) > 0 {
		return nil, fmt.Errorf("it has %d bytes, which is not what its content says: %w", len(data), ErrAltered)
	}
	return f, nil
}

// A reader takes fields off b. Once b is too short, short is set and every
// further field is zero, bytes of the length asked for included.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return make([]byte, n)
	}
	field := r.b[:n:n]
	r.b = r.b[n:]
	return field
}

func (r *reader) uint16() uint16 { return binary.LittleEndian.Uint16(r.bytes(2)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }
func (r *reader) sized() []byte  { return r.bytes(int(r.uint16())) }

func (r *reader) time() time.Time {
	if ns := r.uint64(); ns != 0 {
		return time.Unix(0, int64(ns)).UTC()
	}
	return time.Time{}
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.LittleEndian.AppendUint64(b, 0)
	}
	return binary.LittleEndian.AppendUint64(b, uint64(t.UnixNano()))
}

func appendBytes(b, field []byte) ([]byte, error) {
	if len(field) > math.MaxUint16 {
		return nil, fmt.Errorf("a field of %d bytes is too long for the keyring", len(field))
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(field)))
	return append(b, field...), nil
}
