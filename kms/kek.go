package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrWrongKey is in the chain of every error that says that a wrapped key did
// not open: it was wrapped by another KEK, in another context, or was changed.
var ErrWrongKey = errors.New("not wrapped by this KEK for this purpose, or altered")

const (
	kekSize  = 32 // bytes of key in the file
	saltSize = 32 // bytes of salt before each wrapped key

	labelID   = "coffer kek id v1"
	labelWrap = "coffer kek wrap v1"

	// pad fills the key up to one block of SHA-256, so that hashing it leaves no
	// copy in the heap (see Secret). It is a constant and adds nothing else.
	pad = "coffer kek v1 padded to a block."
)

// A KEK is an open key encryption key. It is safe for concurrent use, up to
// Close.
type KEK struct {
	uri string
	id  string
	key *Secret // the 32 bytes of the file, then pad
}

// newKEK takes ownership of key, whose first 32 bytes are the KEK.
func newKEK(uri string, key *Secret) (*KEK, error) {
	copy(key.Bytes()[kekSize:], pad)
	id, err := hkdf.Key(sha256.New, key.Bytes(), nil, labelID, 16)
	if err != nil {
		key.Wipe()
		return nil, fmt.Errorf("kms: derive the id of %s: %w", uri, err)
	}
	return &KEK{uri: uri, id: hex.EncodeToString(id), key: key}, nil
}

// URI returns what the KEK was opened by.
func (k *KEK) URI() string { return k.uri }

// ID returns the KEK's name: 32 hexadecimal digits derived from the key itself
// by a one-way function. It stays when the file moves, tells two keys apart,
// and may be shown to anyone.
func (k *KEK) ID() string { return k.id }

// Wrap encrypts and authenticates plaintext under the KEK. The same context must
// be given to Unwrap; it says what the key is for and is not itself in the
// result. Each call uses a fresh key, derived from the KEK with a random salt,
// so there is no bound on the number of calls.
//
// The result is salt (32 bytes), nonce (12), ciphertext (as long as plaintext),
// tag (16): AES-256-GCM under HKDF-SHA256(KEK and pad, salt, "coffer kek wrap
// v1").
func (k *KEK) Wrap(plaintext, context []byte) ([]byte, error) {
	wrapped := make([]byte, saltSize, saltSize+len(plaintext)+28)
	rand.Read(wrapped)
	aead, err := k.aead(wrapped)
	if err != nil {
		return nil, err
	}
	return aead.Seal(wrapped, nil, plaintext, context), nil
}

// Unwrap opens what Wrap returned, into dst, whose length must be that of the
// plaintext. Giving it the bytes of a Secret keeps the key out of the heap.
func (k *KEK) Unwrap(dst, wrapped, context []byte) error {
	if len(wrapped) != saltSize+28+len(dst) {
		return fmt.Errorf("kms: unwrap %d bytes with %s: %w", len(wrapped), k.uri, ErrWrongKey)
	}
	aead, err := k.aead(wrapped[:saltSize])
	if err != nil {
		return err
	}
	if _, err := aead.Open(dst[:0], nil, wrapped[saltSize:], context); err != nil {
		return fmt.Errorf("kms: unwrap %d bytes with %s: %w", len(wrapped), k.uri, ErrWrongKey)
	}
	return nil
}

func (k *KEK) aead(salt []byte) (cipher.AEAD, error) {
	if k.key.Bytes() == nil {
		return nil, fmt.Errorf("kms: %s is closed", k.uri)
	}
	key, err := hkdf.Key(sha256.New, k.key.Bytes(), salt, labelWrap, 32)
	if err != nil {
		return nil, fmt.Errorf("kms: derive a wrapping key from %s: %w", k.uri, err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Close wipes the key. The KEK must not be in use.
func (k *KEK) Close() { k.key.Wipe() }

// Open opens the KEK that uri names: "file:PATH", PATH absolute.
func Open(uri string) (*KEK, error) {
	path, err := filePath(uri)
	if err != nil {
		return nil, err
	}
	return openFile(uri, path)
}

// Create makes a new KEK where uri says and opens it. If one is there already,
// or another process is quicker, that one is opened; a key is never replaced.
func Create(uri string) (*KEK, error) {
	path, err := filePath(uri)
	if err != nil {
		return nil, err
	}
	if err := createFile(path); err != nil {
		return nil, err
	}
	return openFile(uri, path)
}

func filePath(uri string) (string, error) {
	if uri == "" {
		return "", errors.New("kms: no KEK is named: write file:PATH, for example file:/etc/coffer/kek")
	}
	scheme, path, found := strings.Cut(uri, ":")
	switch {
	case !found:
		return "", fmt.Errorf("kms: KEK %q has no scheme: write file:%s", uri, uri)
	case scheme != "file":
		return "", fmt.Errorf("kms: KEK %q: scheme %q is not known: write file:PATH", uri, scheme)
	case path == "":
		return "", fmt.Errorf("kms: KEK %q names no file: write file:PATH, for example file:/etc/coffer/kek", uri)
	case path[0] != '/':
		return "", fmt.Errorf("kms: KEK %q: the path is relative, and would name another file when the program "+
			"is started elsewhere: write the whole path, file:/…/%s", uri, strings.TrimPrefix(path, "./"))
	}
	return path, nil
}
