package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
)

// Restored says what Restore made.
type Restored struct {
	Member   keyring.Member
	Revision int64
}

// Restore makes the data directory that c names out of a snapshot, for the first member of a new cluster with the
// identities that follow from c. bump, if not 0, raises the revision by so much and compacts all before.
//
// Nothing of the old data directory is needed, only the snapshot and one of the KEKs that open it; the new keyring is
// wrapped by that KEK. The directory appears under its name when it is complete, and not before.
func Restore(ctx context.Context, c *config.Config, snapshot io.Reader, bump int64, log *zap.Logger) (*Restored, error) {
	if err := errors.Join(refuseKEKInside(c), refuseFull(c.DataDir), refuseFull(c.WALDir)); err != nil {
		return nil, err
	}
	founders, err := initialMembers(c)
	if err != nil {
		return nil, err
	}
	kek, err := kms.Open(c.KEK)
	if err != nil {
		return nil, err
	}
	defer kek.Close()
	content, err := seal.OpenSnapshot(snapshot, kek)
	if err != nil {
		return nil, err
	}

	r := &restoration{data: filepath.Clean(c.DataDir), log: log}
	if c.WALDir != "" {
		r.wal = filepath.Clean(c.WALDir)
	}
	log.Info("restoring snapshot", zap.String("data-dir", r.data), zap.String("wal-dir", r.wal))
	if err := r.make(ctx, kek, founders, content, bump); err != nil {
		return nil, errors.Join(err, r.discard())
	}
	if err := r.appear(); err != nil {
		return nil, errors.Join(err, r.discard())
	}
	for _, m := range founders.members {
		log.Info("added member", zap.String("cluster-id", fmt.Sprintf("%x", founders.self().ClusterID)),
			zap.String("local-member-id", fmt.Sprintf("%x", founders.id)),
			zap.String("added-peer-id", fmt.Sprintf("%x", m.ID)), zap.Strings("added-peer-peer-urls", m.PeerURLs))
	}
	log.Info("restored snapshot", zap.String("data-dir", r.data), zap.String("wal-dir", r.wal), zap.Int64("revision", r.revision))
	return &Restored{Member: founders.self(), Revision: r.revision}, nil
}

// refuseFull refuses a directory that has something in it.
func refuseFull(dir string) error {
	if dir == "" {
		return nil
	}
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is not empty: a snapshot is restored into a new directory; name another one", dir)
}

// restoration is a data directory in the making. It is made beside the place where it will be.
type restoration struct {
	data, wal string
	revision  int64
	log       *zap.Logger
}

func unfinished(dir string) string { return dir + ".restoring" }

func (r *restoration) discard() error {
	err := os.RemoveAll(unfinished(r.data))
	if r.wal != "" {
		err = errors.Join(err, os.RemoveAll(unfinished(r.wal)))
	}
	return err
}

func (r *restoration) make(ctx context.Context, kek *kms.KEK, f *founders, content io.Reader, bump int64) error {
	if err := r.discard(); err != nil { // of an attempt before this one
		return err
	}
	data := unfinished(r.data)
	log := filepath.Join(data, journalName)
	if r.wal != "" {
		log = unfinished(r.wal)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	kr, err := keyring.Create(vfs.Default, filepath.Join(data, keyringName), f.self(), kek)
	if err != nil {
		return err
	}
	defer kr.Close()
	sealed := seal.New(vfs.Default, kr, seal.Options{Logger: r.log})
	s, err := store.Restore(ctx, store.Options{FS: sealed, Dir: filepath.Join(data, dbName), Logger: r.log}, content,
		store.RestoreOptions{Members: f.members, BumpRevision: bump})
	if err != nil {
		return err
	}
	r.revision = s.Revision()
	if err := errors.Join(expectEnd(content), s.Close()); err != nil {
		return err
	}
	j, err := journal.Open(journal.Options{FS: sealed, Dir: log, Logger: r.log})
	if err != nil {
		return err
	}
	// The journal does not hold what the database does: without an anchor a database that was cut would pass for a new one.
	a, err := anchorOf(sealed, filepath.Join(data, dbName), store.RestoredIndex, kr.Generation())
	if err != nil {
		return errors.Join(err, j.Close())
	}
	return errors.Join(j.WriteAnchor(a), j.Reset(store.RestoredIndex, store.RestoredTerm), j.Close())
}

// appear gives the directories their names: the data directory last, since it is the one that a member looks for. After
// an error all is as it was before, or the error says what is not.
func (r *restoration) appear() (err error) {
	for _, dir := range []string{r.wal, r.data} {
		if dir == "" {
			continue
		}
		before, statErr := os.Stat(dir)
		if statErr != nil && !errors.Is(statErr, fs.ErrNotExist) {
			return statErr
		}
		if err := unix.Rename(unfinished(dir), dir); err != nil { // os.Rename would not replace an empty directory
			return fmt.Errorf("rename %s to %s: %w: restore into another directory, or make room for this one", unfinished(dir), dir, err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, disappear(dir, before))
			}
		}()
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

// disappear takes the name from a directory again. before is the empty directory that stood there, if there was one.
func disappear(dir string, before fs.FileInfo) error {
	if err := os.Rename(dir, unfinished(dir)); err != nil {
		return fmt.Errorf("%s is left from this restore and of no use alone: remove it before the next attempt: %w", dir, err)
	}
	if before == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("the empty directory %s is gone: make it again: %w", dir, err)
	}
	owner := before.Sys().(*syscall.Stat_t)
	return errors.Join(os.Chown(dir, int(owner.Uid), int(owner.Gid)), os.Chmod(dir, before.Mode().Perm()))
}
