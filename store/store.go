package store

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/watch"
)

// Options configures a Store. The zero value of a field means its default
// where one is named; the other fields are required.
type Options struct {
	// FS is the only way to the disk; in a member it is the sealed one.
	FS vfs.FS
	// Dir is the directory of the database.
	Dir string
	// CacheBytes and MemTableBytes size Pebble's block cache and memtable;
	// their defaults are mvcc's.
	CacheBytes    int64
	MemTableBytes uint64
	// Fatal is called when the storage engine cannot go on, see mvcc.Options;
	// default: the process exits with status 1.
	Fatal func(error)
	// MaxLearners is how many learners the cluster may have; default 1. It
	// must be the same on all members.
	MaxLearners int
	// Lease and Watch configure the lessor and the hub.
	Lease lease.Options
	Watch watch.Options
	// Tokens are those of users that log in; default: simple ones.
	Tokens *auth.Tokens
	// Logger receives the store's log; nil for none.
	Logger *zap.Logger
}

func (o Options) mvcc() mvcc.Options {
	return mvcc.Options{
		FS: o.FS, Dir: o.Dir, CacheBytes: o.CacheBytes, MemTableBytes: o.MemTableBytes,
		Fatal: o.Fatal, Logger: o.Logger,
	}
}

// Store is the state of one member. Apply and Close belong to one goroutine;
// all other methods may be called from any.
type Store struct {
	db          *mvcc.DB
	lessor      *lease.Lessor
	hub         *watch.Hub
	cluster     atomic.Pointer[cluster]
	auth        atomic.Pointer[auth.State]
	tokens      *auth.Tokens
	maxLearners int
	broken      error // why Apply must not be called again; the apply goroutine's
}

// Open opens the state in o.Dir, or begins with an empty one at revision 1.
func Open(o Options) (*Store, error) {
	db, err := mvcc.Open(o.mvcc())
	if err != nil {
		return nil, err
	}
	return open(db, o)
}

// open takes over db, also when it fails.
func open(db *mvcc.DB, o Options) (*Store, error) {
	s := &Store{db: db, lessor: lease.New(o.Lease), maxLearners: o.MaxLearners, tokens: o.Tokens}
	if s.maxLearners == 0 {
		s.maxLearners = 1
	}
	if s.tokens == nil {
		s.tokens = auth.SimpleTokens(0)
	}
	c, err := loadCluster(db)
	if err == nil {
		err = s.loadLeases()
	}
	var users *auth.State
	if err == nil {
		users, err = loadAuth(db)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading the state in %s: %w", o.Dir, err), db.Close())
	}
	s.cluster.Store(c)
	c.report()
	s.publishAuth(users)
	s.hub = watch.New(db, o.Watch)
	return s, nil
}

// Close ends all watches and closes the store. Other calls must have returned.
func (s *Store) Close() error {
	s.hub.Close()
	return s.db.Close()
}

// DB returns the revisions below the store. It is for reading, flushing and
// measuring; nothing but Apply writes to it.
func (s *Store) DB() *mvcc.DB { return s.db }

// Lessor returns the leases. Its leader half is the caller's to drive; its
// replicated half is Apply's.
func (s *Store) Lessor() *lease.Lessor { return s.lessor }

// Hub returns the watches.
func (s *Store) Hub() *watch.Hub { return s.hub }

// Applied returns the index and term of the last applied entry.
func (s *Store) Applied() (index, term uint64) { return s.db.Applied() }

// Revision returns the current revision.
func (s *Store) Revision() int64 {
	v := s.db.View()
	defer v.Close()
	return v.Revision()
}

// ConfState returns raft's configuration as of the last applied change, empty
// in a new store. It must not be changed.
func (s *Store) ConfState() *raftpb.ConfState { return s.cluster.Load().confState }

// Members returns the members by id. They must not be changed.
func (s *Store) Members() []*pb.Member { return s.cluster.Load().members }

// Member returns one member, or nil. It must not be changed.
func (s *Store) Member(id uint64) *pb.Member { return s.cluster.Load().member(id) }

// RemovedIDs returns the ids of removed members, ascending; they never return.
// The slice must not be changed.
func (s *Store) RemovedIDs() []uint64 { return s.cluster.Load().removed }

// Alarms returns the active alarms of a type, by type and member; NONE means
// all.
func (s *Store) Alarms(t pb.AlarmType) []*pb.AlarmMember { return s.cluster.Load().alarmsOf(t) }

// ClusterVersion returns the version the cluster has agreed on ("3.7.0"), or
// "" before it has.
func (s *Store) ClusterVersion() string { return s.cluster.Load().version }

// Downgrade returns whether a downgrade is under way, and to which version.
func (s *Store) Downgrade() (enabled bool, version string) {
	d := s.cluster.Load().downgrade
	return d.GetEnabled(), d.GetVer()
}
