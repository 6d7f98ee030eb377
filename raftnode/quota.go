package raftnode

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/store"
)

// quotaLook is for how long the store's size is taken as known while it is
// close to the quota.
const quotaLook = 10 * time.Millisecond

// quota refuses what would make the store grow beyond its limit, before it is
// proposed: what is in the log is applied whatever the size, as members may
// differ in it.
type quota struct {
	n     *Node
	limit int64

	mu     sync.Mutex
	size   int64     // of the store when last looked at, and the cost of what was admitted since
	looked time.Time // when that was

	raise sync.Mutex // one alarm at a time
}

func newQuota(n *Node) *quota {
	quotaBytes.Set(float64(n.o.QuotaBytes))
	return &quota{n: n, limit: n.o.QuotaBytes}
}

// admit returns store.ErrNoSpace, after it has raised the alarm, if the request
// would let the store grow beyond the quota, or if the disk is almost full.
func (q *quota) admit(ctx context.Context, r *pb.InternalRaftRequest) error {
	cost := store.Cost(r)
	if cost == 0 || (q.fits(cost) && !q.n.reserve.low.Load()) {
		return nil
	}
	q.n.raiseNoSpace(ctx)
	return store.ErrNoSpace
}

func (q *quota) fits(cost int64) bool {
	if q.limit < 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size+cost >= q.limit && time.Since(q.looked) > quotaLook || q.looked.IsZero() {
		q.size, _ = q.n.o.Store.DB().Size()
		q.looked = time.Now()
	}
	if q.size+cost >= q.limit {
		return false
	}
	q.size += cost
	return true
}

// raiseNoSpace activates the NOSPACE alarm for this member, unless it is
// active, and returns when that has been applied or could not be.
func (n *Node) raiseNoSpace(ctx context.Context) {
	n.quota.raise.Lock()
	defer n.quota.raise.Unlock()
	mine := func(a *pb.AlarmMember) bool { return a.MemberID == n.o.ID }
	if slices.ContainsFunc(n.o.Store.Alarms(pb.AlarmType_NOSPACE), mine) {
		return
	}
	size, _ := n.o.Store.DB().Size()
	n.lg.Warn("no space: raising alarm",
		zap.Int64("quota-size-bytes", n.quota.limit), zap.Int64("size-bytes", size), zap.Bool("disk-almost-full", n.reserve.low.Load()))
	_, err := n.Propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		MemberID: n.o.ID,
		Action:   pb.AlarmRequest_ACTIVATE,
		Alarm:    pb.AlarmType_NOSPACE,
	}})
	if err != nil {
		n.lg.Warn("could not raise the NOSPACE alarm", zap.Error(err))
	}
}
