package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cofferkv/coffer/config"
)

// The names in a data directory.
const (
	lockName    = "LOCK"
	keyringName = "KEYRING"
	journalName = "journal"
	dbName      = "db"
	ballastName = "ballast"
)

// dataDir is a member's data directory, locked against other processes.
type dataDir struct {
	path    string
	journal string
	// fresh says that no member has ever run here.
	fresh bool
	lock  *os.File
}

// openDataDir creates the directory if need be, locks it, and finds out whether a member has run here. It refuses
// directories that hold something else, before anything is written to them.
func openDataDir(c *config.Config) (*dataDir, error) {
	d := &dataDir{path: c.DataDir, journal: c.WALDir}
	if d.journal == "" {
		d.journal = filepath.Join(c.DataDir, journalName)
	}
	if err := d.refuseEtcd(); err != nil {
		return nil, err
	}
	if err := makeDir(d.path); err != nil {
		return nil, fmt.Errorf("create data directory %s: %w%s", d.path, err, permissionRemedy(err, d.path))
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := d.inspect(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// makeDir makes a directory with its parents, so that it is still there after a power failure: what is synced inside
// would be lost with it.
func makeDir(path string) error {
	var missing []string
	for dir := path; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, dir)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, dir := range missing {
		parent, err := os.Open(filepath.Dir(dir))
		if err != nil {
			return err
		}
		if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// sealed returns the directories with sealed files, in or below them.
func (d *dataDir) sealed() []string {
	if rel, err := filepath.Rel(d.path, d.journal); err == nil && !strings.HasPrefix(rel, "..") {
		return []string{d.path}
	}
	return []string{d.path, d.journal}
}

// refuseEtcd recognizes what etcd leaves in a data directory.
func (d *dataDir) refuseEtcd() error {
	for _, trace := range []string{filepath.Join("member", "snap", "db"), filepath.Join("member", "wal")} {
		if _, err := os.Stat(d.file(trace)); err == nil {
			return fmt.Errorf("%s is a data directory of etcd (it has %s), which Coffer does not read and has not touched: "+
				"choose an empty directory with --data-dir, start there, and copy the keys over with `etcdctl make-mirror`", d.path, trace)
		}
	}
	return nil
}

// takeLock makes sure that no other process uses the directory. The lock ends with the process, however it ends.
func (d *dataDir) takeLock() error {
	path := d.file(lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock data directory: %w%s", err, permissionRemedy(err, d.path))
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock)
	if err == nil {
		d.lock = f
		return nil
	}
	defer f.Close()
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	owner := "another process"
	who := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &who) == nil && who.Type != unix.F_UNLCK && who.Pid > 0 {
		owner = fmt.Sprintf("process %d", who.Pid)
	}
	return fmt.Errorf("data directory %s is in use by %s: stop that one first, or give this member a directory of its own with --data-dir", d.path, owner)
}

// inspect finds out whether a member has run here.
func (d *dataDir) inspect() error {
	_, err := os.Stat(d.file(keyringName))
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for a keyring: %w%s", err, permissionRemedy(err, d.path))
	}
	for _, dir := range []string{d.journal, d.file(dbName)} {
		full, err := holdsFiles(dir)
		if err != nil {
			return err
		}
		if full {
			return fmt.Errorf("%s holds sealed files and %s is missing: without its keyring nothing in it can be read. "+
				"Put the %s back from a copy, or restore a snapshot into another directory. Nothing has been changed",
				dir, d.file(keyringName), keyringName)
		}
	}
	d.fresh = true
	return nil
}

// state is what a directory with a keyring has besides.
type state int

const (
	stateComplete   state = iota
	stateUnfinished       // neither journal nor database: the first start ended early, or both were removed
	stateNoJournal        // a database without its journal, which no start leaves
)

func (d *dataDir) state() (state, error) {
	journal, err := holdsFiles(d.journal)
	if err != nil || journal {
		return stateComplete, err
	}
	db, err := holdsFiles(d.file(dbName))
	if db {
		return stateNoJournal, err
	}
	return stateUnfinished, err
}

func holdsFiles(dir string) (bool, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read %s: %w%s", dir, err, permissionRemedy(err, dir))
	}
	return len(names) > 0, nil
}

// strangers returns the names in the directory that are not a member's.
func (d *dataDir) strangers() []string {
	known := map[string]bool{lockName: true, keyringName: true, journalName: true, dbName: true, ballastName: true}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if !known[e.Name()] && !strings.HasPrefix(e.Name(), keyringName+".") {
			names = append(names, e.Name())
		}
	}
	return names
}

func (d *dataDir) close() {
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// refuseKEKInside refuses a key file that lies with the data it protects: whoever takes the directory, or a backup of
// it, would have both.
func refuseKEKInside(c *config.Config) error {
	path, ok := strings.CutPrefix(c.KEK, "file:")
	if !ok {
		return nil
	}
	dir, err := directoryOf(c, path)
	if err != nil {
		return fmt.Errorf("--kek %s: %w", c.KEK, err)
	}
	if dir != "" {
		return fmt.Errorf("the key-encryption key %s lies inside %s, beside the data it protects: whoever has the directory would have the key. "+
			"Move it elsewhere, best to another volume, and name it with --kek", path, dir)
	}
	return nil
}

// refuseLogInside refuses a log file among files that are all sealed.
func refuseLogInside(c *config.Config) error {
	for _, path := range c.LogFiles() {
		dir, err := directoryOf(c, path)
		if err != nil {
			return fmt.Errorf("--log-outputs %s: %w", path, err)
		}
		if dir != "" {
			return fmt.Errorf("--log-outputs %s lies inside %s, where every file is sealed: choose another place for the log", path, dir)
		}
	}
	return nil
}

// directoryOf returns which of the member's directories path lies in, or "".
func directoryOf(c *config.Config, path string) (string, error) {
	file, err := realPath(path)
	if err != nil {
		return "", err
	}
	for _, dir := range []string{c.DataDir, c.WALDir} {
		if dir == "" {
			continue
		}
		real, err := realPath(dir)
		if err != nil {
			return "", err
		}
		if rel, err := filepath.Rel(real, file); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return dir, nil
		}
	}
	return "", nil
}

// realPath is path without symbolic links, as far as it exists.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(abs)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || abs == filepath.Dir(abs) {
			return "", err
		}
		rest = filepath.Join(filepath.Base(abs), rest)
		abs = filepath.Dir(abs)
	}
}

// checkPermission finds fault with a directory that others than its owner may use. What they find there is sealed, but they
// could copy or replace it.
func checkPermission(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil // there is nothing yet
	}
	return fmt.Errorf("directory %s exists with permission %04o, which lets others than its owner in: run chmod 700 %s", dir, info.Mode().Perm(), dir)
}

func permissionRemedy(err error, path string) string {
	if !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	return fmt.Sprintf(": user %d needs to read and write there: chown -R %d %s", os.Getuid(), os.Getuid(), path)
}
