// Package journal keeps the raft log and the hard state of one member: the only log that Coffer writes.
package journal
