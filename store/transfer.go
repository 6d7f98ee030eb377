package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/mvcc"
)

// Import makes a store out of what mvcc's Export wrote on another member of the
// cluster, and opens it. o.Dir must not hold a store. The result is durable.
func Import(ctx context.Context, o Options, r io.Reader) (*Store, error) {
	db, err := mvcc.Import(ctx, o.mvcc(), r)
	if err != nil {
		return nil, err
	}
	return open(db, o)
}

// The place in the log at which a restored store begins. The journal that goes
// with it is reset to it.
const (
	RestoredIndex = 1
	RestoredTerm  = 1
)

// RestoreOptions says what becomes of a restored state.
type RestoreOptions struct {
	// Members are those of the new cluster, all voters. All of them must be
	// restored with the same options from the same snapshot.
	Members []*pb.Member
	// BumpRevision, if not 0, is how far the current revision is raised, so
	// that no client that saw more of the lost cluster than the snapshot has
	// takes old revisions for new ones. All revisions before are then
	// compacted, which makes watches and caches begin anew.
	BumpRevision int64
}

// Restore makes a store out of a snapshot's content, as that of a new cluster:
// keys, leases, alarms and cluster version are the snapshot's, members and the
// place in the log are new, and removed ids are forgotten. o.Dir must not hold
// a store. The result is open and durable.
func Restore(ctx context.Context, o Options, r io.Reader, ro RestoreOptions) (*Store, error) {
	db, err := mvcc.Import(ctx, o.mvcc(), r)
	if err != nil {
		return nil, err
	}
	if err := begin(db, ro); err != nil {
		return nil, errors.Join(fmt.Errorf("restoring into %s: %w", o.Dir, err), db.Close())
	}
	return open(db, o)
}

// begin makes the content of db that of a new cluster.
func begin(db *mvcc.DB, ro RestoreOptions) error {
	c, err := loadCluster(db)
	if err != nil {
		return err
	}
	mv := db.Begin()
	b := &batch{mv: mv}
	for _, m := range c.members {
		mv.DeleteMeta(spaceMember, idKey(m.ID))
	}
	for _, id := range c.removed {
		mv.DeleteMeta(spaceRemoved, idKey(id))
	}
	conf := &raftpb.ConfState{}
	for _, m := range ro.Members {
		conf.Voters = append(conf.Voters, m.ID)
		b.setMeta(spaceMember, idKey(m.ID), m)
	}
	slices.Sort(conf.Voters)
	b.setMeta(spaceCluster, []byte(nameConfState), conf)
	if ro.BumpRevision != 0 {
		revision := mv.Revision()
		if ro.BumpRevision < 0 || ro.BumpRevision > math.MaxInt64-revision {
			b.fail(fmt.Errorf("revision %d cannot be raised by %d", revision, ro.BumpRevision))
		} else {
			revision += ro.BumpRevision
			mv.Advance(revision)
			b.fail(mv.Compact(revision))
		}
	}
	if b.err != nil {
		mv.Discard()
		return b.err
	}
	if _, err := mv.Commit(RestoredIndex, RestoredTerm); err != nil {
		return err
	}
	return db.Flush()
}
