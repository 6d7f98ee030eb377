package kms

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A Secret is memory for key bytes: pages of its own, outside Go's heap, that
// are locked into memory (never swapped out), left out of core dumps, and
// overwritten with zeros before they are given back.
//
// The garbage collector neither moves nor copies it, and nothing of it survives
// Wipe. Two rules keep it that way: read into it and encrypt out of it directly,
// and never copy from it into an ordinary slice, string or array. A secret of a
// multiple of 64 bytes can be hashed with SHA-256 without such a copy, because
// the hash then reads whole blocks in place; shorter ones would be buffered
// inside the hash.
//
// A Secret may be read by many goroutines; Wipe must come after the last of
// them.
type Secret struct {
	pages []byte // whole pages, as mapped; nil after Wipe
	n     int
}

// NewSecret returns n zero bytes of secret memory. If the pages cannot be
// locked, they are used all the same and LockError says why.
func NewSecret(n int) (*Secret, error) {
	page := unix.Getpagesize()
	size := (max(n, 1) + page - 1) / page * page
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("kms: map %d bytes of memory for a key: %w", size, err)
	}
	if err := unix.Mlock(pages); err != nil {
		recordLockError(size, err)
	}
	if err := unix.Madvise(pages, unix.MADV_DONTDUMP); err != nil {
		unix.Munmap(pages)
		return nil, fmt.Errorf("kms: keep a key's memory out of core dumps: %w", err)
	}
	return &Secret{pages: pages, n: n}, nil
}

// Bytes returns the secret itself, not a copy: valid until Wipe, and nil
// afterwards.
func (s *Secret) Bytes() []byte {
	if s.pages == nil {
		return nil
	}
	return s.pages[:s.n:s.n]
}

// Wipe overwrites the secret and gives its pages back. It may be called more
// than once.
func (s *Secret) Wipe() {
	if s.pages == nil {
		return
	}
	clear(s.pages)
	runtime.KeepAlive(s.pages)
	unix.Munmap(s.pages) // cannot fail: these are exactly the pages that Mmap returned
	s.pages = nil
}

var lockFailure struct {
	sync.Mutex
	err error
}

func recordLockError(size int, err error) {
	var limit unix.Rlimit
	about := "unknown"
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		about = fmt.Sprintf("%d bytes", limit.Cur)
	}
	lockFailure.Lock()
	defer lockFailure.Unlock()
	if lockFailure.err == nil {
		lockFailure.err = fmt.Errorf("kms: lock %d bytes of key memory: %w: keys may be swapped to disk; "+
			"raise RLIMIT_MEMLOCK, now %s (LimitMEMLOCK= in a systemd unit, or the capability IPC_LOCK)", size, err, about)
	}
}

// LockError returns the first failure to lock key memory since the process
// began, or nil. The process goes on without the lock, so the server logs this
// once, as a warning.
func LockError() error {
	lockFailure.Lock()
	defer lockFailure.Unlock()
	return lockFailure.err
}
