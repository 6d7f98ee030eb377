package raftnode

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/store"
)

// journalFile stands for *journal.Journal.
type journalFile interface {
	HardState() *raftpb.HardState
	FirstIndex() uint64
	LastIndex() uint64
	Term(i uint64) (uint64, error)
	Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error)
	Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error
	Cut(index uint64) error
	Roll() error
	Size() int64
}

// Options configures a Node. The zero value of a field means its default
// where one is named; the other fields are required.
type Options struct {
	// ID and ClusterID identify this member and its cluster.
	ID, ClusterID uint64
	// Journal and Store are this member's log and state.
	Journal journalFile
	Store   *store.Store

	// Bootstrap are the members of a new cluster, this one among them. It is
	// used when journal and store are empty; empty then means that the member
	// waits for the leader of an existing cluster.
	Bootstrap []*pb.Member
	// Name and ClientURLs are what this member publishes about itself.
	Name       string
	ClientURLs []string
	// ClusterVersion is what a new cluster's version is set to, "3.7.0".
	ClusterVersion string

	// Tick is the heartbeat interval; default 100 ms.
	Tick time.Duration
	// ElectionTicks is the election timeout in ticks; default 10.
	ElectionTicks int
	// DisablePreVote lets a member that returns from a partition disturb the
	// leader.
	DisablePreVote bool
	// DisableStrictReconfigCheck lets membership changes put the quorum at risk.
	DisableStrictReconfigCheck bool

	// MaxRequestBytes bounds one marshalled request; default 1.5 MiB.
	MaxRequestBytes int
	// QuotaBytes is the size of the store above which it only takes what does
	// not grow it; default 2 GiB, negative for no limit.
	QuotaBytes int64
	// CatchUpEntries is how many applied entries stay in the journal for slow
	// followers; default 5000.
	CatchUpEntries uint64
	// FlushBytes is how far the journal grows before the store is flushed, so
	// that the journal can be cut; default 32 MiB. It is also
	// what has to be replayed, at most, after a crash.
	FlushBytes int64

	// CompactionMode and CompactionRetention set auto-compaction as etcd's
	// flags do: CompactPeriodically with a period, or CompactByRevision with a
	// number of revisions (the integer value of the retention). A retention of
	// 0 means never.
	CompactionMode      string
	CompactionRetention time.Duration

	// ResealRate is how many bytes a second are rewritten after a key
	// rotation; default 64 MiB.
	ResealRate int64

	// FS is the file system of the data directory.
	FS vfs.FS
	// BallastPath and BallastBytes are the file that is given up when the disk
	// is almost full, and its size; default 64 MiB, negative for none.
	BallastPath  string
	BallastBytes int64

	// Transport reaches the other members; nil means that none can be reached.
	Transport Transport

	// Logger receives the node's log; nil for none.
	Logger *zap.Logger
}

// Values of Options.CompactionMode.
const (
	CompactPeriodically = "periodic"
	CompactByRevision   = "revision"
)

func (o *Options) setDefaults() {
	setDefault(&o.Tick, 100*time.Millisecond)
	setDefault(&o.ElectionTicks, 10)
	setDefault(&o.ClusterVersion, "3.7.0")
	setDefault(&o.MaxRequestBytes, 3<<19)
	setDefault(&o.QuotaBytes, 2<<30)
	setDefault(&o.CatchUpEntries, 5000)
	setDefault(&o.FlushBytes, 32<<20)
	setDefault(&o.ResealRate, 64<<20)
	setDefault(&o.BallastBytes, 64<<20)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
