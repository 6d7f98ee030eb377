package raftnode

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
)

// Options configures a Node. The zero value of a field means its default
// where one is named; the other fields are required.
type Options struct {
	// ID and ClusterID identify this member and its cluster.
	ID, ClusterID uint64

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
	// that the journal can be cut; default 128 MiB.
	FlushBytes int64

	// CompactionMode and CompactionRetention set auto-compaction as etcd's
	// flags do: "periodic" with a period, or "revision" with a number of
	// revisions (the integer value of the retention). 0 means never.
	CompactionMode      string
	CompactionRetention time.Duration

	// LeaseCheckpoints makes the leader replicate the remaining time of leases.
	LeaseCheckpoints bool
	// LeaseCheckpointInterval is the time between two checkpoints of a lease;
	// default 5 minutes.
	LeaseCheckpointInterval time.Duration

	// ResealRate is how many bytes a second are rewritten after a key
	// rotation; default 64 MiB.
	ResealRate int64

	// BallastBytes is the size of the file that is given up when the disk is
	// almost full; default 64 MiB, negative for none.
	BallastBytes int64

	// Transport reaches the other members; nil means that none can be reached.
	Transport Transport

	// Logger receives the node's log; nil for none.
	Logger *zap.Logger
}
