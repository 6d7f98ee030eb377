package raftnode

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/mvcc"
)

// revisionPeriod is how often compaction by revision looks.
const revisionPeriod = 5 * time.Minute

// compactor compacts what is older than its owner wants to keep.
type compactor struct {
	lg *zap.Logger
	// revision returns the current revision; leads tells whether this member
	// is to act; compact compacts up to a revision.
	revision func() int64
	leads    func() bool
	compact  func(ctx context.Context, rev int64) error
}

// runCompaction is the leader's duty to compact old revisions. Every member
// follows the revisions, so that a new leader knows them.
func (n *Node) runCompaction() {
	if n.o.CompactionRetention == 0 {
		return
	}
	c := &compactor{
		lg:       n.lg,
		revision: n.o.Store.Revision,
		leads:    func() bool { return n.leader.Load() == n.o.ID },
		compact: func(ctx context.Context, rev int64) error {
			res, err := n.Propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
			if err != nil {
				return err
			}
			return res.Err
		},
	}
	if n.o.CompactionMode == CompactByRevision {
		c.byRevision(n.ctx, int64(n.o.CompactionRetention))
	} else {
		c.periodically(n.ctx, n.o.CompactionRetention)
	}
}

// periodically keeps the revisions of the last period. It notes the revision
// ten times a period (ten times an hour if that is shorter), and after the
// first period compacts, every period (every hour if that is shorter), to what
// was current a period ago. After a failure it tries again at the next note.
func (c *compactor) periodically(ctx context.Context, period time.Duration) {
	every := min(period, time.Hour)
	step := every / 10
	keep := int(period/step) + 1
	var revs []int64
	var done int64
	last := time.Now()
	wait := period
	for {
		revs = append(revs, c.revision())
		if len(revs) > keep {
			revs = revs[1:]
		}
		if !pause(ctx, step) {
			return
		}
		if !c.leads() || time.Since(last) < wait || revs[0] == done {
			continue
		}
		wait = every
		if c.run(ctx, revs[0], zap.Duration("compact-period", period), step) {
			done = revs[0]
			last = time.Now()
		}
	}
}

// byRevision keeps the given number of revisions.
func (c *compactor) byRevision(ctx context.Context, retention int64) {
	var done int64
	for pause(ctx, revisionPeriod) {
		rev := c.revision() - retention
		if !c.leads() || rev <= 0 || rev == done {
			continue
		}
		if c.run(ctx, rev, zap.Int64("revision-compaction-retention", retention), revisionPeriod) {
			done = rev
		}
	}
}

func (c *compactor) run(ctx context.Context, rev int64, how zap.Field, retry time.Duration) bool {
	lg := c.lg.With(zap.Int64("revision", rev), how)
	lg.Info("starting auto compaction")
	start := time.Now()
	if err := c.compact(ctx, rev); err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		lg.Warn("failed auto compaction", zap.Duration("retry-interval", retry), zap.Error(err))
		return false
	}
	lg.Info("completed auto compaction", zap.Duration("took", time.Since(start)))
	return true
}

// pause waits, and reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
