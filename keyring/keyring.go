package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/kms"
)

// ErrUnknownKey is in the chain of the error for a key id that the keyring does
// not hold: it never did, or the key was removed.
var ErrUnknownKey = errors.New("data key not in the keyring")

// An ID names a data key. It is random and public.
type ID [16]byte

// String returns the id as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// A Member is the cluster member that a keyring, and every file sealed with it,
// belongs to.
type Member struct{ ClusterID, MemberID uint64 }

// String returns both ids in hexadecimal, as etcd prints them.
func (m Member) String() string { return fmt.Sprintf("%x of cluster %x", m.MemberID, m.ClusterID) }

// A State is a stage in the life of a data key. Keys only move forward.
type State uint8

const (
	Active      State = 1 // seals new files; there is exactly one
	DecryptOnly State = 2 // opens existing files
	Removed     State = 3 // not in the keyring any more; see the package comment
)

// String returns the state as `coffer keys list` shows it.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case DecryptOnly:
		return "decrypt-only"
	case Removed:
		return "removed"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// KeyInfo describes a data key, past keys included.
type KeyInfo struct {
	ID          ID
	State       State
	Created     time.Time
	Deactivated time.Time // zero while active
	Removed     time.Time // zero until removed
	// The keyring held the key from generation Since on and, if it was removed,
	// up to but without generation Until; else Until is 0.
	Since, Until uint64
	// KEKs are the ids of all KEKs that wrapped the keyring key while the keyring
	// held this key. Until each of them is destroyed in its device, a copy of
	// the file KEYRING from that time still opens the key.
	KEKs []string
}

// WrapInfo describes a KEK that wraps the keyring key, or did.
type WrapInfo struct {
	KEK     string // kms.KEK.ID
	URI     string // what the KEK was opened by when the wrap was made
	Created time.Time
	// The wrap was in force from generation Since on and, if it was retired, up
	// to but without generation Until; else Until is 0.
	Since, Until uint64
}

// A Keyring is an open keyring. It is safe for concurrent use.
type Keyring struct {
	fs   vfs.FS
	path string

	// changing is held while a change is made and written. It comes before mu.
	changing sync.Mutex
	failed   error // under changing: what a failed write left on the disk is unknown

	// mu guards cur and the memory of the keys in it. It is never held across I/O.
	mu  sync.RWMutex
	cur *state
}

// Create makes a keyring with one active data key, its keyring key wrapped by
// each of keks, at path. There must be no file at path, and no file sealed under
// an earlier keyring; the caller sees to the latter. The keyring uses keks but
// does not close them.
func Create(fs vfs.FS, path string, m Member, keks ...*kms.KEK) (*Keyring, error) {
	if _, err := fs.Stat(path); err == nil {
		return nil, fmt.Errorf("keyring: create %s: there is one already: open it; a keyring is never replaced, "+
			"because the files sealed under it would be lost", path)
	} else if !oserror.IsNotExist(err) {
		return nil, fmt.Errorf("keyring: create %s: %w", path, err)
	}
	root, err := newKey()
	if err != nil {
		return nil, err
	}
	s := &state{member: m, root: root}
	kr := &Keyring{fs: fs, path: path, cur: s}
	err = s.addKey(1, time.Now())
	if err == nil {
		err = s.setKEKs(1, keks, time.Now())
	}
	if err == nil {
		s.generation = 1
		err = kr.write(s)
	}
	if err != nil {
		s.wipe()
		return nil, err
	}
	track(kr)
	return kr, nil
}

// Open opens the keyring at path with whichever of keks wraps it. The keyring
// uses keks but does not close them.
func Open(fs vfs.FS, path string, keks ...*kms.KEK) (*Keyring, error) {
	data, err := readFile(fs, path)
	if oserror.IsNotExist(err) {
		return nil, fmt.Errorf("keyring: open %s: %w: without it no file of this member can be read: restore it from a copy "+
			"of the data directory; only a data directory without any file gets a new one", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: open %s: %w", path, err)
	}
	s, err := decode(data, keks)
	if err != nil {
		return nil, fmt.Errorf("keyring: open %s: %w", path, err)
	}
	kr := &Keyring{fs: fs, path: path, cur: s}
	track(kr)
	return kr, nil
}

// Member returns the member that the keyring belongs to. The caller compares it
// with the member it means to run.
func (kr *Keyring) Member() Member {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	return kr.cur.member
}

// Generation returns how many times the keyring has been written. It starts at
// 1 and grows by 1 with every change.
func (kr *Keyring) Generation() uint64 {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	return kr.cur.generation
}

// CheckGeneration refuses a keyring older than one already seen: recorded is the
// highest generation that the journal or a peer remembers.
func (kr *Keyring) CheckGeneration(recorded uint64) error {
	if have := kr.Generation(); have < recorded {
		return fmt.Errorf("keyring: %s is generation %d, but generation %d was in force: an old copy has been put in its place; "+
			"put back the newest copy", kr.path, have, recorded)
	}
	return nil
}

// Active returns the id of the key under which new files are sealed.
func (kr *Keyring) Active() ID {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	return kr.cur.active().id
}

// Keys describes every data key that this keyring ever held, oldest first.
func (kr *Keyring) Keys() []KeyInfo {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	infos := make([]KeyInfo, 0, len(kr.cur.keys))
	for _, k := range kr.cur.keys {
		info := KeyInfo{ID: k.id, State: k.state, Created: k.created, Deactivated: k.deactivated, Removed: k.removed, Since: k.since, Until: k.until}
		for _, w := range kr.cur.wraps {
			overlap := (k.until == 0 || w.since < k.until) && (w.until == 0 || k.since < w.until)
			if overlap && !slices.Contains(info.KEKs, w.kek) {
				info.KEKs = append(info.KEKs, w.kek)
			}
		}
		infos = append(infos, info)
	}
	return infos
}

// Wraps describes every KEK that ever wrapped this keyring, oldest first.
func (kr *Keyring) Wraps() []WrapInfo {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	infos := make([]WrapInfo, 0, len(kr.cur.wraps))
	for _, w := range kr.cur.wraps {
		infos = append(infos, WrapInfo{KEK: w.kek, URI: w.uri, Created: w.created, Since: w.since, Until: w.until})
	}
	return infos
}

// Rotate makes a new active data key; the one before it only decrypts from now
// on. When Rotate returns, the change is on the disk and in force.
func (kr *Keyring) Rotate() (ID, error) {
	var id ID
	err := kr.change(func(s *state) error {
		now := time.Now()
		old := s.active()
		old.state, old.deactivated = DecryptOnly, now
		if err := s.addKey(s.generation, now); err != nil {
			return err
		}
		id = s.active().id
		return nil
	})
	if err != nil {
		return ID{}, fmt.Errorf("keyring: rotate: %w", err)
	}
	return id, nil
}

// Begun raises the generation of a keyring that was never changed: a keyring in
// its first generation is one whose member has not begun to serve.
func (kr *Keyring) Begun() error {
	if kr.Generation() > 1 {
		return nil
	}
	if err := kr.change(func(*state) error { return nil }); err != nil {
		return fmt.Errorf("keyring: record that the member has begun: %w", err)
	}
	return nil
}

// Remove ends a decrypt-only key: it leaves the keyring, on the disk first, and
// its memory is wiped. The caller must know that no file and no open handle is
// under the key; what is sealed under it can never be read again.
func (kr *Keyring) Remove(id ID) error {
	err := kr.change(func(s *state) error {
		k := s.find(id)
		switch {
		case k == nil || k.state == Removed:
			return fmt.Errorf("%w: %v", ErrUnknownKey, id)
		case k.state == Active:
			return errors.New("it is the active key: rotate first")
		}
		k.state, k.removed, k.until, k.secret = Removed, time.Now(), s.generation, nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("keyring: remove key %v: %w", id, err)
	}
	return nil
}

// SetKEKs makes keks, and no others, wrap the keyring. Each new wrap is opened
// once before an old one is dropped. If a KEK is retired by this, the keyring
// key is replaced too, so that what the retired KEK once opened is of no use for
// the new file. The keyring uses keks from now on but does not close them.
func (kr *Keyring) SetKEKs(keks ...*kms.KEK) error {
	err := kr.change(func(s *state) error { return s.setKEKs(s.generation, keks, time.Now()) })
	if err != nil {
		return fmt.Errorf("keyring: set the KEKs: %w", err)
	}
	return nil
}

// FileKey derives the key of one file from the data key id: salt is the file's
// own random salt, info a label and everything that the key shall be bound to.
// It returns the file key inside an AEAD (AES-256-GCM with random nonces: give
// it nil nonces; overhead 28 bytes) and a tag, which commits to key, salt and
// info: compare it, in constant time, with the one stored in the file before
// trusting either.
//
// One file key must not seal more than 2^31 messages (SP 800-38D, section 8.3,
// allows 2^32 with random nonces).
func (kr *Keyring) FileKey(id ID, salt, info []byte) (aead cipher.AEAD, tag [32]byte, err error) {
	kr.mu.RLock()
	defer kr.mu.RUnlock()
	k := kr.cur.find(id)
	if k == nil || k.secret == nil {
		return nil, tag, fmt.Errorf("keyring: %w: %v", ErrUnknownKey, id)
	}
	return DeriveFileKey(k.secret.Bytes(), salt, info)
}

// DeriveFileKey is the derivation behind FileKey, for a container that carries
// its own key (of KeySize bytes, in secret memory) instead of using a data key:
// HKDF-SHA256(key, salt, info), 64 bytes, the first 32 the key of the AEAD, the
// others the tag.
func DeriveFileKey(key, salt, info []byte) (aead cipher.AEAD, tag [32]byte, err error) {
	out, err := hkdf.Key(sha256.New, key, salt, string(info), 64)
	if err != nil {
		return nil, tag, fmt.Errorf("keyring: derive a file key: %w", err)
	}
	defer clear(out)
	block, err := aes.NewCipher(out[:32])
	if err != nil {
		return nil, tag, fmt.Errorf("keyring: %w", err)
	}
	aead, err = cipher.NewGCMWithRandomNonce(block)
	copy(tag[:], out[32:])
	return aead, tag, err
}

// A Wrap is a key wrapped by a KEK, for a container that stands alone.
type Wrap struct {
	KEK     string // kms.KEK.ID
	URI     string // what the KEK was opened by, to help whoever looks for it
	Wrapped []byte
}

// WrapKey wraps key, for context, under every KEK in force. All of them must
// have been given to Open or SetKEKs.
func (kr *Keyring) WrapKey(key, context []byte) ([]Wrap, error) {
	kr.mu.RLock()
	keks := make([]*kms.KEK, 0, len(kr.cur.wraps))
	var missing []string
	for _, w := range kr.cur.wraps {
		switch {
		case w.until != 0:
		case w.by == nil:
			missing = append(missing, w.String())
		default:
			keks = append(keks, w.by)
		}
	}
	kr.mu.RUnlock()
	if len(missing) > 0 {
		return nil, fmt.Errorf("keyring: wrap a key under every KEK in force: not opened: %s: name these KEKs too", strings.Join(missing, ", "))
	}
	var wraps []Wrap
	for _, kek := range keks {
		wrapped, err := kek.Wrap(key, context)
		if err != nil {
			return nil, fmt.Errorf("keyring: wrap a key: %w", err)
		}
		wraps = append(wraps, Wrap{KEK: kek.ID(), URI: kek.URI(), Wrapped: wrapped})
	}
	return wraps, nil
}

// Close wipes all keys. AEADs that FileKey returned stay usable.
func (kr *Keyring) Close() {
	untrack(kr)
	kr.changing.Lock()
	defer kr.changing.Unlock()
	kr.failed = errors.New("the keyring is closed")
	kr.mu.Lock()
	defer kr.mu.Unlock()
	kr.cur.wipe()
}

// change makes edit on a copy of the state, at the next generation, writes the
// copy, and puts it in force. Keys that only the old state refers to are wiped.
func (kr *Keyring) change(edit func(*state) error) error {
	kr.changing.Lock()
	defer kr.changing.Unlock()
	if kr.failed != nil {
		return kr.failed
	}
	old := kr.cur // only changed under changing
	next := old.clone()
	next.generation++
	if err := edit(next); err != nil {
		next.wipeExcept(old)
		return err
	}
	if err := kr.write(next); err != nil {
		next.wipeExcept(old)
		return err
	}
	kr.mu.Lock()
	defer kr.mu.Unlock()
	kr.cur = next
	old.wipeExcept(next)
	return nil
}

// write puts s on the disk, in place of the file before it. Once the rename was
// tried, a failure leaves it open which of the two is there: no change is made
// after that, because it could be built on a keyring that is not the one on the
// disk.
func (kr *Keyring) write(s *state) error {
	data, err := s.encode()
	if err != nil {
		return err
	}
	tmp := kr.path + ".tmp"
	if err := writeFile(kr.fs, tmp, data); err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	err = kr.fs.Rename(tmp, kr.path)
	if err == nil {
		err = syncDir(kr.fs, kr.fs.PathDir(kr.path))
	}
	if err != nil {
		kr.failed = fmt.Errorf("an earlier change of %s may or may not be on the disk: restart the member", kr.path)
		return fmt.Errorf("replace %s: %w: restart the member before the next change", kr.path, err)
	}
	return nil
}

// newKey returns KeySize random bytes.
func newKey() (*kms.Secret, error) {
	key, err := kms.NewSecret(KeySize)
	if err != nil {
		return nil, err
	}
	rand.Read(key.Bytes())
	return key, nil
}

func sameKey(a, b *kms.Secret) bool { return subtle.ConstantTimeCompare(a.Bytes(), b.Bytes()) == 1 }
