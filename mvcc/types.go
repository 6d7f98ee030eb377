package mvcc

import (
	"cmp"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

var (
	// ErrCompacted says that the history asked for has been removed by a compaction.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFutureRevision says that the revision asked for has not been reached yet.
	ErrFutureRevision = errors.New("mvcc: required revision is a future revision")
	// ErrClosed says that the store was closed before the operation could finish.
	ErrClosed = errors.New("mvcc: store is closed")
)

// Rev is the place of one change in the history: the revision of the transaction that made it, and its number, from 0,
// among the changes of that transaction.
type Rev struct {
	Main int64
	Sub  int32
}

// compare is negative if r came before o, positive if it came after it.
func (r Rev) compare(o Rev) int {
	return cmp.Or(cmp.Compare(r.Main, o.Main), cmp.Compare(r.Sub, o.Sub))
}

// less reports whether r came before o.
func (r Rev) less(o Rev) bool { return r.compare(o) < 0 }

// Meta is what is known about a key without reading its value. The fields mean what they mean in mvccpb.KeyValue.
type Meta struct {
	Create  int64 // revision of the last creation
	Mod     Rev   // last modification
	Version int64 // 1 after the creation, one more after each further put
	Lease   int64 // 0: none
}

// Deleted is a key that a DeleteRange removed, with what was known about it.
type Deleted struct {
	Key  []byte // shared, not to be modified
	Meta Meta
}

// RangeOptions narrows a Range.
type RangeOptions struct {
	Rev       int64 // revision to read at; 0 or less: the newest the reader sees
	Limit     int64 // return at most so many keys; 0 or less: all
	CountOnly bool  // return the count and no keys
	KeysOnly  bool  // leave out the values: they are then not read at all, and RangeResult.Raw stays empty
	RawOnly   bool  // leave RangeResult.KVs empty; not together with KeysOnly
}

// RangeResult is the answer to a Range. Slices and messages are the caller's to keep but share memory with each
// other and must not be modified.
type RangeResult struct {
	KVs   []*mvccpb.KeyValue // in the order of keys
	Raw   [][]byte           // the same messages in wire encoding, in the same order
	Count int64              // number of keys in the range at that revision, whatever the limit
}

// Event is one change of one key. It is shared among all that are handed it and must not be modified.
type Event struct {
	Type mvccpb.Event_EventType
	KV   *mvccpb.KeyValue // of a deletion: the key and the revision of the deletion
	Raw  []byte           // KV in wire encoding

	prev     Rev // the version of the key before this revision; zero if there was none
	replaced Rev // the version that this change replaced, which may be of the same revision; zero if there was none
}

// HasPrev reports whether the key existed before the revision of the event.
func (e *Event) HasPrev() bool { return e.prev != Rev{} }

// Events are all changes of one revision, in the order in which the transaction made them.
type Events struct {
	Revision int64
	Events   []Event
}
