// Package lease keeps the leases of a cluster: who granted them, which keys
// hang on them, and, on the leader, when they end.
//
// A Lessor has two halves, and it matters which of them a call belongs to.
//
// The replicated half is what every member must agree on: a lease's id, its
// granted TTL, its checkpointed remaining TTL and the keys attached to it.
// Grant, Revoke, Checkpoint, Attach, Detach, Load and Reset change it, are
// called by the state machine only, in the order of the log, and look at no
// clock. The package does no I/O: each of them returns the [Record] that the
// state machine must store in the same batch.
//
// The leader's half is time. Only the leader's clock runs: Promote starts it
// and gives every lease its full TTL (or its checkpointed rest) and an
// extension, Demote stops it. Expired names the leases that are over; nothing
// ends until their revocation has gone through the log and come back as
// Revoke. A leader must have confirmed that it still leads before it revokes,
// renews or checkpoints; that is the caller's duty.
//
// Promises: a lease never ends before its TTL has passed since it was granted
// or last renewed, whoever leads; a renewal that was answered is never undone,
// not even by a checkpoint that was under way; two members that applied the
// same calls hold the same state.
package lease
