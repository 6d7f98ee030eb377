package kms

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFile reads the KEK in the file at path, straight into secret memory.
func openFile(uri, path string) (*KEK, error) {
	// Without O_NONBLOCK a named pipe would hang the start instead of being refused.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("kms: KEK %s: %w: name the file that holds this member's key, or, for a new member, make one: "+
			"(umask 077; head -c %d /dev/urandom > %s)", uri, err, kekSize, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("kms: KEK %s: %w: give the file to the user that runs this program (uid %d), mode 0600", uri, err, os.Geteuid())
	case err != nil:
		return nil, fmt.Errorf("kms: KEK %s: %w", uri, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("kms: KEK %s: %w", uri, err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("kms: KEK %s: %s is not a regular file (%v): name a file that holds %d bytes of key",
			uri, path, info.Mode().Type(), kekSize)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("kms: KEK %s: others than its owner may use it (mode %04o): run chmod 600 %s, and make a new key "+
			"if someone may have read this one", uri, info.Mode().Perm(), path)
	case owner != 0 && owner != os.Geteuid():
		return nil, fmt.Errorf("kms: KEK %s: it belongs to user %d, who can read and replace it, and this program runs as user %d: "+
			"run it as the owner, or run chown %d %s, and make a new key if that user must not have this one",
			uri, owner, os.Geteuid(), os.Geteuid(), path)
	case info.Size() != kekSize:
		return nil, fmt.Errorf("kms: KEK %s: it has %d bytes, not %d: it must be the raw key, without encoding or end of line; "+
			"if it was cut short, restore it from its backup", uri, info.Size(), kekSize)
	}
	key, err := NewSecret(2 * kekSize)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f, key.Bytes()[:kekSize]); err != nil {
		key.Wipe()
		return nil, fmt.Errorf("kms: KEK %s: read: %w", uri, err)
	}
	return newKEK(uri, key)
}

// createFile puts a new key at path unless something is there already. The key
// appears under its name whole or not at all: it is written and synced before it
// is linked there.
func createFile(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil {
		// Whoever made it may be between its link and its sync. A read-only
		// directory cannot be synced, and needs not.
		_ = syncDir(dir)
		return nil
	}
	f, err := newFile(dir)
	if err != nil {
		return fmt.Errorf("kms: create KEK %s: %w: the directory must exist and be writable", path, err)
	}
	defer os.Remove(f.Name()) // if it has one of its own
	defer f.Close()
	key, err := NewSecret(kekSize)
	if err != nil {
		return err
	}
	defer key.Wipe()
	rand.Read(key.Bytes())
	if _, err := f.Write(key.Bytes()); err != nil {
		return fmt.Errorf("kms: create KEK %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("kms: create KEK %s: %w", path, err)
	}
	// If another process was quicker, its key is the one.
	if err := unix.Linkat(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("kms: create KEK %s: %w", path, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("kms: create KEK %s: sync its directory: %w", path, err)
	}
	return nil
}

// newFile makes a file in dir for its owner only. It has no name in any directory,
// so that a crash leaves no key behind. Where that cannot be had (NFS is such a
// file system) it has a random one; what a crash leaves then is never used.
func newFile(dir string) (*os.File, error) {
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err == nil {
		f := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
		if _, err := os.Stat(f.Name()); err == nil {
			return f, nil
		}
		f.Close() // without /proc it can never be linked
	}
	return os.CreateTemp(dir, ".kek-*")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
