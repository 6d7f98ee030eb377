// Package journal keeps the raft log and the hard state of one member. It is the only log that Coffer writes: the
// store above it has none, and is brought up to date from here after a crash.
//
// # What it promises
//
// What [Journal.Append] has returned for survives a crash at any later instant, and nothing else is ever read. A
// batch of entries is one sealed frame and one fdatasync. If a write or a sync fails the journal takes nothing more
// and the process has to end: after a failed sync nobody knows what the disk holds, and a second, successful one
// would prove nothing.
//
// # Files
//
// The log is a chain of numbered segments, each a sealed file of package seal, zeroed and synced to its full length
// before its first use. The first frame of a segment says how many frames its predecessor has and how the last of
// them is tagged, and repeats all that the journal knows apart from entries, so that older segments can go. When a
// segment ends, an end mark says so at the end of its file. So a segment that was lost, swapped, or replaced by an
// older version of itself is found when the journal is opened, before anything is changed; only what the last
// segment has lost at its very end looks like a write that never happened. The store, which knows what it has
// applied, is compared with the log for that reason, and an [Anchor] in the log does the same for the store: it
// names the MANIFEST from which the store may not be older. Write one before each [Journal.Cut].
//
// Opening a journal writes nothing. With its first write a process begins a new segment, small at first, so that being
// killed often costs little space: it never appends to a segment of an earlier process. The next segment is prepared in the background.
//
// New segments are under the active data key. Older ones are resealed in place, as any other file, or go when they
// are cut; [Journal.Roll] ends the one that is being written to, so that it can be treated like them.
//
// FORMAT.md describes what is in the frames.
package journal
