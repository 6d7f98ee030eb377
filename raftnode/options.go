package raftnode

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
)

// Options configures a Node. The zero value of a field means its default
// where one is named; the other fields are required.
type Options struct {
	// ID and ClusterID identify this member and its cluster.
	ID, ClusterID uint64
	// Journal and Store are this member's log and state.
	Journal *journal.Journal
	Store   *store.Store

	// Bootstrap are the members of a new cluster, this one among them. It is
	// used when journal and store are empty; empty then means that the member
	// waits for the leader of an existing cluster.
	Bootstrap []*pb.Member
	// Name and ClientURLs are what this member publishes about itself.
	Name       string
	ClientURLs []string

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
	// After SnapshotCount applied entries (default 10000), or FlushBytes of them
	// (default 32 MiB), whichever comes first, the store is flushed and the
	// journal cut. That is also what a crash leaves, at most, to be replayed.
	SnapshotCount uint64
	FlushBytes    int64
	// CatchUpEntries is how many applied entries stay in the journal for slow
	// followers; default 5000.
	CatchUpEntries uint64

	// CompactionMode and CompactionRetention set auto-compaction as etcd's
	// flags do: CompactPeriodically with a period, or CompactByRevision with a
	// number of revisions (the integer value of the retention). A retention of
	// 0 means never.
	CompactionMode      string
	CompactionRetention time.Duration

	// ResealRate is how many bytes a second are rewritten after a key
	// rotation; default 64 MiB.
	ResealRate int64

	// FS and Keyring are what everything in the data directory is sealed with.
	FS      *seal.FS
	Keyring *keyring.Keyring
	// DBDir is the directory of the store. SealedDirs are all directories with
	// sealed files; what is in and below them is resealed after a key rotation.
	DBDir      string
	SealedDirs []string
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
	setDefault(&o.MaxRequestBytes, 3<<19)
	setDefault(&o.QuotaBytes, 2<<30)
	setDefault(&o.SnapshotCount, 10000)
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
