// Package raftnode is one member of the cluster: it turns requests into
// entries of the replicated log, and entries of the log into applied requests.
//
// Three goroutines share the work. The raft goroutine ticks and gives raft what
// comes from other members and from readers. The append goroutine writes:
// everything that waits for it goes into one journal frame and under one
// fdatasync; then it gives raft what callers have proposed meanwhile. Both do so
// in turns (loop.go), which exclude each other and never wait for a write. The
// apply goroutine puts everything that is committed into the store as one batch,
// and answers (for a request that is alone on a member that is alone, the append
// goroutine does). So while one batch is being synced the next is gathered and the
// previous one applied; except that raft takes in a configuration change before
// what follows it is applied. Only what this member's own journal has synced is
// ever applied.
//
// A leader has duties besides, one file each: leases end (leases.go), old
// revisions are compacted (compaction.go), the store keeps to its quota
// (quota.go), and space is kept on the disk for the member to end in order
// (reserve.go). Whether leading or not, a member cuts its journal (trim.go) and
// carries a key rotation to its end (rotation.go).
//
// Nothing here assumes that the member is alone: whatever one member decides
// for all goes through the log.
package raftnode
