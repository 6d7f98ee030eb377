package raftnode

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// reservePoll is how often the free space is looked at.
const reservePoll = 100 * time.Millisecond

// reserve keeps the member from finding out by a failed write that the disk is
// full: Pebble and journal can only end the process then. When as little is
// free as the ballast file takes, the file is given up: what it took is for
// flushes, compactions, votes, and the requests that make room. From then on
// nothing that grows the store is proposed, and the NOSPACE alarm tells so to
// all members, until there is room for the ballast again.
type reserve struct {
	n    *Node
	size int64
	// low is set while there is no room for the ballast.
	low  atomic.Bool
	full bool // the ballast file is there
}

func newReserve(n *Node) *reserve { return &reserve{n: n, size: n.o.BallastBytes} }

func (r *reserve) run() {
	if r.size < 0 {
		if err := r.remove(); err != nil {
			r.n.lg.Warn("could not remove the disk reserve", zap.Error(err))
		}
		return
	}
	r.full = r.stands()
	for first := true; first || pause(r.n.ctx, reservePoll); first = false {
		free, err := r.free()
		if errors.Is(err, vfs.ErrUnsupported) {
			return
		} else if err != nil {
			r.n.lg.Warn("could not find out how much space is free", zap.Error(err))
			continue
		}
		switch {
		case free < r.size:
			if !r.low.Swap(true) {
				r.n.lg.Warn("the disk is almost full: giving up the reserve; make room, then disarm the NOSPACE alarm",
					zap.Int64("free-bytes", free), zap.Int64("reserve-bytes", r.size))
			}
			if err := r.remove(); err != nil {
				r.n.lg.Warn("could not give up the disk reserve", zap.Error(err))
			}
			ctx, cancel := r.n.dutyContext()
			r.n.raiseNoSpace(ctx)
			cancel()
		case !r.full && free > 3*r.size:
			if err := r.fill(); err != nil {
				r.n.lg.Warn("could not restore the disk reserve", zap.Error(err))
				pause(r.n.ctx, 100*reservePoll)
				continue
			}
			if r.low.Swap(false) {
				r.n.lg.Info("there is space on the disk again: the reserve is restored")
			}
		}
	}
}

// free returns the bytes that this process may still write.
func (r *reserve) free() (int64, error) {
	u, err := r.n.o.FS.GetDiskUsage(r.n.o.FS.PathDir(r.n.o.BallastPath))
	if err != nil {
		return 0, err
	}
	freeBytes.Set(float64(u.AvailBytes))
	return int64(u.AvailBytes), nil
}

// stands reports whether the whole ballast file is there.
func (r *reserve) stands() bool {
	info, err := r.n.o.FS.Stat(r.n.o.BallastPath)
	ok := err == nil && info.Size() == r.size
	if ok {
		reserveBytes.Set(float64(r.size))
	}
	return ok
}

func (r *reserve) remove() error {
	r.full = false
	reserveBytes.Set(0)
	if err := r.n.o.FS.Remove(r.n.o.BallastPath); err != nil && !oserror.IsNotExist(err) {
		return err
	}
	return nil
}

// fill writes the ballast file. What was begun and not ended by a crash is
// replaced.
func (r *reserve) fill() error {
	if err := r.remove(); err != nil {
		return err
	}
	f, err := r.n.o.FS.Create(r.n.o.BallastPath, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for left := r.size; left > 0 && err == nil && r.n.ctx.Err() == nil; left -= int64(len(zeros)) {
		_, err = f.Write(zeros[:min(left, int64(len(zeros)))])
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return errors.Join(err, r.remove())
	}
	r.full = true
	reserveBytes.Set(float64(r.size))
	return nil
}
