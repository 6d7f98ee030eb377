package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
)

// What is done to snapshots and to the data directories of members that do not run.

// SnapshotStatus is what a snapshot says of itself and what is in it.
type SnapshotStatus struct {
	seal.SnapshotMeta
	store.Summary
	Bytes int64 // of the file
}

// InspectSnapshot decrypts and checks all of a snapshot.
func InspectSnapshot(path, kekURI string) (s SnapshotStatus, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	kek, err := kms.Open(kekURI)
	if err != nil {
		return s, err
	}
	defer kek.Close()
	content, err := seal.OpenSnapshot(f, kek)
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	s.SnapshotMeta, s.Bytes = content.Meta(), info.Size()
	if s.Summary, err = store.Summarize(content); err == nil {
		err = expectEnd(content)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// expectEnd makes sure that a snapshot of which the content was read ends there: only then its last checks are made.
func expectEnd(content io.Reader) error {
	n, err := io.Copy(io.Discard, content)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d bytes follow the end of the content", n)
	}
	return err
}

// DataDir is the data directory of a member that does not run.
type DataDir struct {
	Path string
	WAL  string // directory of the journal, if that lies outside of Path
	KEK  string
}

// HashKV returns the hash of the history up to rev; 0 is all of it.
func (d DataDir) HashKV(ctx context.Context, rev int64, log *zap.Logger) (h mvcc.KeyValueHash, err error) {
	err = d.open(log, func(s *Server) error {
		h, err = s.store.DB().HashKV(ctx, rev)
		return err
	})
	return h, err
}

// Reclaim gives the space of compacted versions back to the file system. A running member does that by itself.
func (d DataDir) Reclaim(ctx context.Context, log *zap.Logger) error {
	return d.open(log, func(s *Server) error {
		before, _ := s.store.DB().Size()
		start := time.Now()
		log.Info("defragmenting", zap.String("path", d.Path), zap.Int64("current-db-size-bytes", before))
		if err := s.store.DB().Reclaim(ctx); err != nil {
			return err
		}
		after, inUse := s.store.DB().Size()
		log.Info("finished defragmenting directory", zap.String("path", d.Path),
			zap.Int64("current-db-size-bytes-diff", after-before), zap.Int64("current-db-size-bytes", after),
			zap.Int64("current-db-size-in-use-bytes", inUse), zap.Duration("took", time.Since(start)))
		return nil
	})
}

// open opens the directory as a start of the member would, up to the store, and closes it again.
func (d DataDir) open(log *zap.Logger, do func(*Server) error) (err error) {
	c, err := offline(d.KEK, d.Path, d.WAL)
	if err != nil {
		return err
	}
	s := &Server{c: c, log: log, failed: make(chan error, 1)}
	if _, err := os.Stat(filepath.Join(d.Path, keyringName)); err != nil {
		return fmt.Errorf("%s is not the data directory of a member: %w", d.Path, err) // and none is to be made there
	}
	defer func() { err = errors.Join(err, s.release()) }()
	for _, step := range []func() error{s.openDataDir, s.openKeys, s.openState} {
		if err := step(); err != nil {
			return err
		}
	}
	return do(s)
}

// HashKVOfSnapshot returns the hash of the history up to rev that is in a snapshot. The snapshot is unpacked for it, sealed
// under the KEK, in a directory for temporary files.
func HashKVOfSnapshot(ctx context.Context, path, kekURI string, rev int64, log *zap.Logger) (h mvcc.KeyValueHash, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "coffer-hashkv-")
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := offline(kekURI, dir, "")
	if err != nil {
		return h, err
	}
	if _, err := Restore(ctx, c, f, 0, log); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	return DataDir{Path: dir, KEK: kekURI}.HashKV(ctx, rev, log)
}

func offline(kekURI, dir, wal string) (*config.Config, error) {
	return config.Parse([]string{"--kek=" + kekURI, "--data-dir=" + dir, "--wal-dir=" + wal}, nil)
}
