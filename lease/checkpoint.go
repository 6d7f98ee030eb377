package lease

import "time"

// CheckpointLimit is how many checkpoints go into one proposal.
const CheckpointLimit = 1000

// DueCheckpoints returns up to limit leases with the TTL that remains of
// each, for the caller to propose as one request. It returns none unless
// checkpoints are on and the clock runs.
//
// Until a checkpoint comes back through Checkpoint, no renewal of its lease
// is answered, because the checkpoint would undo it on the next leader. So
// the caller proposes at once, with no deadline but its leadership, and hands
// the records to DropCheckpoints if they certainly did not enter the log.
func (le *Lessor) DueCheckpoints(limit int) []Record {
	if le.checkpointInterval == 0 {
		return nil
	}
	le.mu.Lock()
	defer le.mu.Unlock()
	now := le.now()
	var due []Record
	for len(due) < limit {
		l := le.checkpoints.first(now)
		if l == nil {
			break
		}
		le.checkpoints.remove(l)
		left := l.expiry - now
		if left <= 0 {
			continue // about to be revoked
		}
		remaining := (left + int64(time.Second) - 1) / int64(time.Second)
		if remaining >= l.ttl {
			le.scheduleCheckpoint(l, now) // renewed just now
			continue
		}
		l.checkpointing = true
		due = append(due, Record{ID: l.id, TTL: l.ttl, Remaining: remaining})
	}
	return due
}

// DropCheckpoints takes back what DueCheckpoints returned and what did not
// enter the log. It is not for proposals whose fate is unknown.
func (le *Lessor) DropCheckpoints(due []Record) {
	le.mu.Lock()
	defer le.mu.Unlock()
	for _, r := range due {
		if l := le.leases[r.ID]; l != nil {
			le.settleCheckpoint(l)
		}
	}
}

// settleCheckpoint notes that no checkpoint of l is under way, and when the
// next one is due.
func (le *Lessor) settleCheckpoint(l *lease) {
	l.checkpointing = false
	l.wake()
	if le.demoted != nil {
		le.scheduleCheckpoint(l, le.now())
	}
}

// scheduleCheckpoint sets the time of the next checkpoint of a lease that
// lives longer than the interval.
func (le *Lessor) scheduleCheckpoint(l *lease, now int64) {
	if le.checkpointInterval > 0 && l.left() > int64(le.checkpointInterval) {
		le.checkpoints.set(l, add(now, int64(le.checkpointInterval)))
	}
}
