package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/cofferkv/coffer/kms"
)

// KeySize is the length in bytes of keyring keys, data keys and snapshot keys.
const KeySize = 64

// A state is all that a keyring knows at one generation. Once in force it is not
// changed; a change is made on a clone, which shares the memory of the keys.
type state struct {
	member     Member
	generation uint64
	root       *kms.Secret // the keyring key
	wraps      []wrap      // retired ones included
	keys       []key       // removed ones included
}

type wrap struct {
	kek, uri     string
	created      time.Time
	since, until uint64
	wrapped      []byte   // nil once retired
	by           *kms.KEK // nil unless given at Open or SetKEKs
}

func (w wrap) String() string { return fmt.Sprintf("%s (id %s)", w.uri, w.kek) }

type key struct {
	id                            ID
	state                         State
	created, deactivated, removed time.Time
	since, until                  uint64
	secret                        *kms.Secret // nil once removed
}

func (s *state) clone() *state {
	c := *s
	c.wraps = append([]wrap(nil), s.wraps...)
	c.keys = append([]key(nil), s.keys...)
	return &c
}

func (s *state) find(id ID) *key {
	for i := range s.keys {
		if s.keys[i].id == id {
			return &s.keys[i]
		}
	}
	return nil
}

func (s *state) active() *key {
	for i := range s.keys {
		if s.keys[i].state == Active {
			return &s.keys[i]
		}
	}
	panic("keyring: no active key") // decode and addKey see to it that there is one
}

func (s *state) addKey(generation uint64, now time.Time) error {
	secret, err := newKey()
	if err != nil {
		return err
	}
	k := key{state: Active, created: now, since: generation, secret: secret}
	rand.Read(k.id[:])
	s.keys = append(s.keys, k)
	return nil
}

// setKEKs makes keks the ones that wrap the keyring key from generation on.
func (s *state) setKEKs(generation uint64, keks []*kms.KEK, now time.Time) error {
	if len(keks) == 0 {
		return errors.New("no KEK: at least one must wrap the keyring")
	}
	given := make(map[string]*kms.KEK, len(keks))
	for _, kek := range keks {
		if other := given[kek.ID()]; other != nil {
			return fmt.Errorf("KEKs %s and %s are the same key", other.URI(), kek.URI())
		}
		given[kek.ID()] = kek
	}
	retired := false
	for i := range s.wraps {
		w := &s.wraps[i]
		if w.until != 0 {
			continue
		}
		if kek := given[w.kek]; kek != nil {
			w.by, w.uri = kek, kek.URI()
			delete(given, w.kek)
			continue
		}
		w.until, w.wrapped, w.by = generation, nil, nil
		retired = true
	}
	if retired {
		root, err := newKey()
		if err != nil {
			return err
		}
		s.root = root
	}
	for _, kek := range keks {
		if given[kek.ID()] != nil {
			s.wraps = append(s.wraps, wrap{kek: kek.ID(), created: now, since: generation, by: kek, uri: kek.URI()})
		}
	}
	for i := range s.wraps {
		w := &s.wraps[i]
		if w.until != 0 || w.wrapped != nil && !retired {
			continue
		}
		if err := s.wrapRoot(w); err != nil {
			return err
		}
	}
	return nil
}

// wrapRoot wraps the keyring key under w's KEK, and opens the wrap again, so
// that a device that returns something useless is found out before any other
// wrap is given up for it.
func (s *state) wrapRoot(w *wrap) error {
	wrapped, err := w.by.Wrap(s.root.Bytes(), wrapContext(s.member))
	if err != nil {
		return err
	}
	check, err := kms.NewSecret(KeySize)
	if err != nil {
		return err
	}
	defer check.Wipe()
	if err := w.by.Unwrap(check.Bytes(), wrapped, wrapContext(s.member)); err != nil {
		return fmt.Errorf("open the new wrap once: %w", err)
	}
	if !sameKey(check, s.root) {
		return fmt.Errorf("open the new wrap once: %s returned another key", w)
	}
	w.wrapped = wrapped
	return nil
}

// secrets returns all keys that s refers to.
func (s *state) secrets() []*kms.Secret {
	var all []*kms.Secret
	if s.root != nil {
		all = append(all, s.root)
	}
	for _, k := range s.keys {
		if k.secret != nil {
			all = append(all, k.secret)
		}
	}
	return all
}

// wipe wipes all keys and leaves the state without any.
func (s *state) wipe() {
	for _, secret := range s.secrets() {
		secret.Wipe()
	}
	s.root = nil
	for i := range s.keys {
		s.keys[i].secret = nil
	}
}

// wipeExcept wipes the keys of s that other does not refer to.
func (s *state) wipeExcept(other *state) {
	keep := make(map[*kms.Secret]bool)
	for _, secret := range other.secrets() {
		keep[secret] = true
	}
	for _, secret := range s.secrets() {
		if !keep[secret] {
			secret.Wipe()
		}
	}
}
