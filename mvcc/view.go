package mvcc

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// View is a consistent state of the store. It may be used by several goroutines and must be closed; holding it keeps
// versions that a later compaction makes superfluous on the disk, so it is not for keeping.
type View struct{}

// View returns the state after the last commit.
func (db *DB) View() *View { panic("mvcc: not written yet") }

// Close releases the view.
func (v *View) Close() { panic("mvcc: not written yet") }

// Revision returns the revision of the last transaction that wrote; 1 in a new store.
func (v *View) Revision() int64 { panic("mvcc: not written yet") }

// CompactRevision returns the revision of the last compaction, -1 if there was none. Older revisions cannot be read.
func (v *View) CompactRevision() int64 { panic("mvcc: not written yet") }

// Get returns what is known about a key at the view's revision, without reading its value.
func (v *View) Get(key []byte) (Meta, bool) { panic("mvcc: not written yet") }

// Range returns the keys in [key, end). An empty end means the one key; end "\x00" means all keys from key on. The
// errors are ErrFutureRevision, ErrCompacted, that of ctx, or what the disk said.
func (v *View) Range(ctx context.Context, key, end []byte, o RangeOptions) (RangeResult, error) {
	panic("mvcc: not written yet")
}

// PrevKV returns the key's message before the revision of ev, or nil if it did not exist then or that version has been
// compacted.
func (v *View) PrevKV(ev *Event) (*mvccpb.KeyValue, error) { panic("mvcc: not written yet") }

// EventsOptions narrows View.Events.
type EventsOptions struct {
	Match    func(key []byte) bool // nil: all keys; must not keep or change key
	MaxBytes int                   // stop after the revision with which the events reached so many bytes; 0: never
}

// Events returns the events of revisions from to to, both included, as far as the view has them. Revisions without a
// matching event are left out. Next is the revision at which to go on: to+1, or less if MaxBytes stopped it. The errors are
// ErrCompacted if from is below the compact revision, that of ctx, or what the disk said.
func (v *View) Events(ctx context.Context, from, to int64, o EventsOptions) (events []Events, next int64, err error) {
	panic("mvcc: not written yet")
}
