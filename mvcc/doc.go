// Package mvcc keeps every revision of every key on Pebble, as etcd's API defines revisions.
//
// A DB has one writer and any number of readers. The writer, the goroutine that applies committed entries,
// collects the requests of one apply batch in a Batch, each request in a Txn that sees what those before it left, and
// commits them as one Pebble batch that also carries the applied index: after a crash either all of the batch is there or
// none of it, and nothing that came after it. Readers take a View, a consistent state of the store that costs two
// atomic operations and no lock, and that stays readable while it is held, whatever is written or compacted meanwhile.
//
// Pebble's own log is off: what was committed but not flushed is lost in a crash and comes back from the Raft journal.
// DurableApplied says from where the journal has to be replayed; Flush moves that point.
//
// The current keys and their revisions (not their values) are also kept in memory, in a copy-on-write tree with
// subtree counts, so that a range is counted in logarithmic time, a page of a list costs no more than the page, and a
// write needs no read. The tree is rebuilt from Pebble when the store is opened.
//
// Keys and values never appear in logs or errors. FORMAT.md gives the encoding of what is stored, to the byte.
package mvcc
