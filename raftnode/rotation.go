package raftnode

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/cofferkv/coffer/keyring"
)

// resealRetry is the pause before files are looked at again that could not be
// resealed yet, as they were being written, or held open without a name.
const resealRetry = time.Second

// rotator carries key rotations to their end: whatever is under a key that is
// not active is sealed again under the active one, and a key is removed when
// nothing is under it. What there is to do follows from keyring and files, so a
// rotation that a crash interrupted goes on at the next start.
type rotator struct {
	n    *Node
	wake chan struct{}
}

func newRotator(n *Node) *rotator { return &rotator{n: n, wake: make(chan struct{}, 1)} }

// RotateKeys makes a new data key the active one and returns its id when that
// is durable. What is under older keys is resealed in the background, while the
// member serves, and then they are removed.
func (n *Node) RotateKeys(ctx context.Context) (keyring.ID, error) {
	if err := ctx.Err(); err != nil {
		return keyring.ID{}, err
	}
	id, err := n.o.Keyring.Rotate()
	if err != nil {
		return keyring.ID{}, err
	}
	n.lg.Info("rotated data keys", zap.Stringer("active-key", id), zap.Uint64("keyring-generation", n.o.Keyring.Generation()))
	select {
	case n.rotator.wake <- struct{}{}:
	default:
	}
	return id, nil
}

func (r *rotator) run() {
	// Not before the journal has been written to: until then it still clears
	// away what a crash left of files that were being resealed.
	select {
	case <-r.n.ready:
	case <-r.n.ctx.Done():
	}
	for r.n.ctx.Err() == nil {
		left, err := r.pass()
		switch {
		case r.n.ctx.Err() != nil:
			return
		case err != nil:
			r.n.lg.Warn("could not reseal everything that is under old data keys, trying again", zap.Error(err))
			pause(r.n.ctx, 10*resealRetry)
		case left:
			pause(r.n.ctx, resealRetry)
		default:
			select {
			case <-r.wake:
			case <-r.n.ctx.Done():
			}
		}
	}
}

// pass records the keyring's generation, reseals what is under old keys, and
// removes those under which nothing is left. It reports whether any remain.
func (r *rotator) pass() (left bool, err error) {
	if err := r.n.recordKeyring(); err != nil {
		return false, err
	}
	if len(r.old()) == 0 {
		return false, nil
	}
	// What is appended from now on is under the active key, so a segment that
	// is resealed is not one that is being written.
	if err := r.n.o.Journal.Roll(); err != nil {
		err = fmt.Errorf("beginning a journal segment under the active data key: %w", err)
		r.n.fail(err)
		return false, err
	}
	rateBytes := r.n.o.ResealRate
	limit := rate.NewLimiter(rate.Limit(rateBytes), int(max(rateBytes/10, 1<<20)))
	if err := r.n.o.FS.ResealAll(r.n.ctx, limit, r.n.o.SealedDirs...); err != nil {
		return false, err
	}
	removed, err := r.n.o.FS.RemoveUnused(r.n.o.SealedDirs...)
	for _, id := range removed {
		r.n.lg.Info("removed a data key under which nothing is left", zap.Stringer("key", id))
	}
	if err != nil {
		return false, err
	}
	return len(r.old()) > 0, r.n.recordKeyring()
}

// old returns the keys that only decrypt.
func (r *rotator) old() []keyring.ID {
	var ids []keyring.ID
	for _, k := range r.n.o.Keyring.Keys() {
		if k.State == keyring.DecryptOnly {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// recordKeyring notes the keyring's generation in the journal, if it is new: an
// older keyring is refused from then on.
func (n *Node) recordKeyring() error {
	n.trimmer.anchoring.Lock()
	defer n.trimmer.anchoring.Unlock()
	if a, ok := n.o.Journal.Anchor(); ok && a.KeyringGeneration == n.o.Keyring.Generation() {
		return nil
	}
	durable, err := n.o.Store.DB().DurableApplied()
	if err != nil {
		return err
	}
	a, err := n.anchor(durable)
	if err != nil {
		return err
	}
	if err := n.o.Journal.WriteAnchor(a); err != nil {
		err = fmt.Errorf("recording the keyring's generation: %w", err)
		n.fail(err)
		return err
	}
	return nil
}
