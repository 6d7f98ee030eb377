package api

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/seal"
)

// snapshotChunk is the size of the pieces in which a snapshot is sent.
const snapshotChunk = 32 << 10

// Snapshot sends the whole content as a sealed snapshot that stands alone. To etcd's tools it looks like one of etcd's:
// a multiple of 512 bytes, then a SHA-256 of them.
func (s maintenanceServer) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	if err := s.permitRoot(stream.Context()); err != nil {
		return err
	}
	start := time.Now()
	_, inUse := s.store.DB().Size()
	s.log.Info("sending database snapshot to client", zap.Int64("estimated-bytes", inUse))
	out := &snapshotSender{stream: stream, version: s.storageVersion(), estimate: inUse}
	revision, err := s.sendSnapshot(stream.Context(), out)
	if err != nil {
		s.log.Warn("failed to send database snapshot to client", zap.Int64("sent-bytes", out.sent), zap.Error(err))
		return toStatus(err)
	}
	s.snapshots.sent()
	s.log.Info("successfully sent database snapshot to client",
		zap.Int64("total-bytes", out.sent), zap.Int64("revision", revision), zap.Duration("took", time.Since(start)))
	return nil
}

func (s maintenanceServer) sendSnapshot(ctx context.Context, out *snapshotSender) (revision int64, err error) {
	content, err := s.store.DB().NewExport()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	w, err := seal.NewSnapshotWriter(out, s.o.Keyring, seal.SnapshotMeta{
		Member:   s.o.Keyring.Member(),
		Revision: content.Revision(),
		Created:  time.Now().UTC(),
	})
	if err != nil {
		return 0, err
	}
	if err := content.Write(ctx, w); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	return content.Revision(), out.end()
}

// snapshotSender sends what is written to it in pieces.
type snapshotSender struct {
	stream   pb.Maintenance_SnapshotServer
	version  string
	estimate int64 // bytes expected in all
	sent     int64
	chunk    []byte
}

func (w *snapshotSender) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(w.chunk) == snapshotChunk {
			// How much is left is a guess, but never 0 before the end: a client may take 0 for that.
			if err := w.send(max(w.estimate-w.sent, 1)); err != nil {
				return n - len(p), err
			}
		}
		part := min(len(p), snapshotChunk-len(w.chunk))
		w.chunk = append(w.chunk, p[:part]...)
		p = p[part:]
	}
	return n, nil
}

func (w *snapshotSender) end() error { return w.send(0) }

func (w *snapshotSender) send(remaining int64) error {
	w.sent += int64(len(w.chunk))
	err := w.stream.Send(&pb.SnapshotResponse{Blob: w.chunk, RemainingBytes: uint64(remaining), Version: w.version})
	// gRPC may still read a message that was sent.
	w.chunk = make([]byte, 0, snapshotChunk)
	return err
}
