package store

import (
	"context"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Options configures a Store. The zero value of a field means its default
// where one is named; the other fields are required.
type Options struct {
	// FS is the only way to the disk; in a member it is the sealed one.
	FS vfs.FS
	// Dir is the directory of the database.
	Dir string
	// MaxLearners is how many learners the cluster may have; default 1. It
	// must be the same on all members.
	MaxLearners int
	// MinLeaseTTL is the shortest time to live that a lease is granted, in
	// seconds; default 1. It must be the same on all members.
	MinLeaseTTL int64
	// CacheBytes and MemTableBytes size Pebble's block cache and memtable;
	// defaults are mvcc's.
	CacheBytes    int64
	MemTableBytes uint64
	// Logger receives the store's log; nil for none.
	Logger *zap.Logger
}

// Store is the state of one member. Apply, Close and Import belong to one
// goroutine; all other methods may be called from any.
type Store struct{}

// Open opens the state in o.Dir, or begins with an empty one at revision 1.
func Open(o Options) (*Store, error) { return &Store{}, nil }

// Close closes the store. What was not flushed will be replayed from the journal.
func (s *Store) Close() error { return nil }

// Apply applies committed entries in their order, as one batch. Entries at or
// below the applied index are skipped and have no result. An error means that
// this member cannot go on (its disk failed, or an entry is of a kind that this
// program does not know): nothing of the batch counts, and the store refuses
// all further work.
func (s *Store) Apply(entries []Entry, conf ConfChanger) ([]EntryResult, error) { return nil, nil }

// Applied returns the index and term of the last applied entry.
func (s *Store) Applied() (index, term uint64) { return 0, 0 }

// ConfState returns raft's configuration as of the applied index; it must not
// be changed.
func (s *Store) ConfState() *raftpb.ConfState { return nil }

// Members returns the members by id. They must not be changed.
func (s *Store) Members() []*pb.Member { return nil }

// Member returns one member, or nil. It must not be changed.
func (s *Store) Member(id uint64) *pb.Member { return nil }

// RemovedIDs returns the ids of removed members, ascending. They never return.
func (s *Store) RemovedIDs() []uint64 { return nil }

// Alarms returns the active alarms of a type, by type and member; NONE means all.
func (s *Store) Alarms(t pb.AlarmType) []*pb.AlarmMember { return nil }

// ClusterVersion returns the version the cluster has agreed on ("3.7.0"), or
// "" before that.
func (s *Store) ClusterVersion() string { return "" }

// Downgrade returns whether a downgrade is under way and to which version.
func (s *Store) Downgrade() (enabled bool, version string) { return false, "" }

// Revision returns the current revision.
func (s *Store) Revision() int64 { return 0 }

// Range answers a range request from the committed state. The header has the
// revision only.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return nil, nil
}

// RangeStream answers a range request in chunks of about chunkBytes. The
// revision is pinned at the first chunk; header (revision only), more and count
// are set on the last. Requests with a sort order or revision filters are not
// for it (api answers them with Unimplemented).
func (s *Store) RangeStream(ctx context.Context, r *pb.RangeRequest, chunkBytes int, send func(*pb.RangeResponse) error) error {
	return nil
}

// ReadTxn answers a transaction for which IsReadOnly holds, without raft.
func (s *Store) ReadTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return nil, nil
}

// Export writes the whole state as of one applied index to w.
func (s *Store) Export(ctx context.Context, w io.Writer) error { return nil }
