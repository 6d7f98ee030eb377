// Package store is the replicated state machine of a Coffer member.
//
// Everything that changes a member's state comes in through Apply, in the
// order of the Raft log, and leaves as one mvcc batch that holds the changed
// revisions, leases, members, alarms, configuration state and the applied
// index together. Apply reads the log and the state and nothing else: no
// clock, no local size, no free space, no map order. Two members that applied
// the same entries therefore hold the same bytes, however the entries were cut
// into batches.
//
// Requests that share a log entry behave as if each were an entry of its own:
// each sees what those before it left, has its own revision and its own error,
// and an error undoes that request alone. All checks of a request come before
// its first write, so there is never anything to take back.
//
// Reads (Range, RangeStream, ReadTxn and the accessors) run on the last
// committed state, from any goroutine, and never wait for Apply.
package store
