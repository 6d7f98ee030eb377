package mvcc

import "context"

// Batch collects what the entries of one apply batch change. There is one at a time, used by one goroutine. Nothing of it
// is visible to views before Commit.
type Batch struct{}

// Begin returns an empty batch on top of the last committed one.
func (db *DB) Begin() *Batch { panic("mvcc: not written yet") }

// Revision returns the revision that the transactions ended so far have reached.
func (b *Batch) Revision() int64 { panic("mvcc: not written yet") }

// CompactRevision returns the compact revision, with compactions of this batch.
func (b *Batch) CompactRevision() int64 { panic("mvcc: not written yet") }

// Txn begins the next transaction. The one before must have ended.
func (b *Batch) Txn() *Txn { panic("mvcc: not written yet") }

// SetMeta sets a record outside the history: leases, members and whatever else must change together with the
// applied index. The bucket is not empty and holds no zero byte. Key and value are copied.
func (b *Batch) SetMeta(bucket string, key, value []byte) { panic("mvcc: not written yet") }

// DeleteMeta removes a record that SetMeta set.
func (b *Batch) DeleteMeta(bucket string, key []byte) { panic("mvcc: not written yet") }

// Compact makes all versions superfluous that only revisions below rev need. They become unreadable when the batch is
// published and are removed in the background. The errors are ErrCompacted and ErrFutureRevision.
func (b *Batch) Compact(rev int64) error { panic("mvcc: not written yet") }

// Commit writes the batch together with the applied index and term, publishes it to views and returns its events,
// revision by revision. After an error, which names the directory, the store is unusable.
func (b *Batch) Commit(index, term uint64) ([]Events, error) { panic("mvcc: not written yet") }

// Txn is one request. It sees what the requests before it in the batch left, and its own changes. If it changes
// anything, all its changes share the revision Revision()+1.
type Txn struct{}

// Revision returns the revision before the transaction.
func (t *Txn) Revision() int64 { panic("mvcc: not written yet") }

// Get returns what is known about a key, without reading its value.
func (t *Txn) Get(key []byte) (Meta, bool) { panic("mvcc: not written yet") }

// Range is View.Range on the state that the transaction sees.
func (t *Txn) Range(ctx context.Context, key, end []byte, o RangeOptions) (RangeResult, error) {
	panic("mvcc: not written yet")
}

// Put sets a key and attaches it to a lease (0: none). It returns what was known about the key before. Key and value
// are copied.
func (t *Txn) Put(key, value []byte, lease int64) (old Meta, existed bool) {
	panic("mvcc: not written yet")
}

// DeleteRange deletes the keys in [key, end), which are given as for View.Range, and returns them in their order.
func (t *Txn) DeleteRange(key, end []byte) []Deleted { panic("mvcc: not written yet") }

// End ends the transaction and returns the revision it leads to: Revision()+1 if it changed anything, else Revision().
func (t *Txn) End() int64 { panic("mvcc: not written yet") }

// Abort ends the transaction and undoes its changes.
func (t *Txn) Abort() { panic("mvcc: not written yet") }
