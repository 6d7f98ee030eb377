package raftnode

import "time"

// minHold is the shortest wait that is worth a timer. On a disk that syncs in
// less than twice of it nobody is waited for.
const minHold = 200 * time.Microsecond

// group decides whether a leader hands on at once what has gathered during an
// append. The callers that this append answered are about to come back; if the
// next one begins without them, they fall into two groups that take turns for
// ever, and each sync carries only half of them. So they are waited for: at most
// for half of the time that an append takes, and not once all are back that were
// there, which one that is alone always is. Callers that do not come back cost a
// wait in vain; then there is none for the next 2, 4, ... 64 appends. On a fast
// disk the append goroutine only lets those go first that can run at once.
type group struct {
	wake func() // called when the append goroutine is to look again

	sent    int           // requests in the last append
	average time.Duration // of what an append takes

	ended bool          // an append has, and nothing was handed on since
	wait  time.Duration // how long to wait; 0 for not at all
	until time.Time     // when that is over, once there is someone to be held up
	timer *time.Timer
	back  int // requests that waited when the append ended
	all   int // those, and the ones it answered
	vain  int // waits in vain, one after the other
	skip  int // appends after which there is no wait
}

// appended tells that an append has ended, while as many requests as given were
// waiting already.
func (g *group) appended(took time.Duration, waiting int) {
	// One append that hangs says nothing about the next.
	wait := min(g.average, took) / 2
	g.average += (took - g.average) / 8
	g.back, g.all = waiting, waiting+g.sent
	g.ended, g.wait, g.until = g.all > 1, 0, time.Time{}
	switch {
	case wait < minHold:
	case g.skip > 0:
		g.skip--
	default:
		g.wait = wait
	}
}

// hold reports whether the requests that are waiting, at least one, are to wait
// for more. If not, they are handed on.
func (g *group) hold(waiting int) bool {
	if g.ended {
		g.ended = false
		g.wake()
		return true
	}
	if g.wait == 0 {
		return false
	}
	if waiting >= g.all {
		g.wait, g.vain = 0, 0
		return false
	}
	now := time.Now()
	if g.until.IsZero() {
		g.until = now.Add(g.wait)
		if g.timer == nil {
			g.timer = time.AfterFunc(g.wait, g.wake)
		} else {
			g.timer.Reset(g.wait)
		}
	}
	if now.Before(g.until) {
		return true
	}
	// The wait has made an append half as long again: it has paid if it carries
	// half as many requests again.
	if 2*waiting < 3*g.back {
		g.vain = min(g.vain+1, 6)
		g.skip = 1 << g.vain
	} else {
		g.vain = 0
	}
	g.wait = 0
	return false
}

// missing is how many more requests there must be for hold to be asked again.
func (g *group) missing(waiting int) int {
	if g.wait == 0 || waiting == 0 {
		return 1
	}
	return max(1, g.all-waiting)
}
