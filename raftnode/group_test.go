package raftnode

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// heldUp lets a group be asked as the append goroutine does: once at the end of
// an append, and again when it was woken for that.
func (g *group) heldUp(waiting int) bool {
	g.hold(waiting)
	return g.hold(waiting)
}

func TestCallersThatWereAnsweredAreWaitedFor(t *testing.T) {
	const took = 10 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		var woken atomic.Int64
		g := group{wake: func() { woken.Add(1) }, average: took}

		g.sent = 1
		g.appended(took, 0)
		if g.heldUp(1) {
			t.Error("one that is alone is held up")
		}

		g.sent = 1
		g.appended(took, 1)
		if !g.heldUp(1) || g.missing(1) != 1 {
			t.Error("the other one of two is not waited for")
		}
		if g.hold(2) {
			t.Error("two of two are held up")
		}

		g.sent = 4
		g.appended(took, 0)
		time.Sleep(took)
		woken.Store(0)
		if !g.heldUp(1) || woken.Load() != 1 {
			t.Error("the wait is over before there was somebody to be held up")
		}
		time.Sleep(took/2 + 1)
		synctest.Wait()
		if woken.Load() != 2 || g.hold(3) || g.skip != 0 {
			t.Error("a wait does not end, or was taken to be in vain")
		}

		for _, skip := range []int{2, 4, 8, 16, 32, 64, 64} {
			g.sent = 4
			g.appended(took, 4)
			if !g.heldUp(4) {
				t.Fatal("nobody is waited for")
			}
			time.Sleep(took)
			if g.hold(5) || g.skip != skip {
				t.Errorf("%d appends without a wait after one in vain, want %d", g.skip, skip)
			}
			for range skip {
				if g.appended(took, 4); g.heldUp(4) {
					t.Error("there is a wait soon after one in vain")
				}
			}
		}

		g.average = minHold
		g.appended(minHold, 1)
		if g.heldUp(1) {
			t.Error("requests are held up on a fast disk")
		}
	})
}

// A tick would bring to light what nobody was woken for, after a while.
func TestNothingWaitsForATick(t *testing.T) {
	m := newSingle(t, func(o *Options) { o.Tick = time.Hour })
	value := strings.Repeat("v", 1<<20) // raft holds back what follows when maxApplyingBytes are being applied
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for i := range 3 {
				if _, err := m.tryPut(context.Background(), fmt.Sprint(c), value[:len(value)>>(4*i)]); err != nil {
					t.Error(err)
				}
				if err := m.node.ReadIndex(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 100 {
		m.put(fmt.Sprint(i), "v")
	}
}
