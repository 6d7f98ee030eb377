// Package seal is the only door to the disk: every file in a data directory is
// written and read through it, encrypted and authenticated.
//
// An [FS] is a vfs.FS on top of another one. Pebble runs on it unchanged; the
// journal uses its segments; a snapshot leaves the member as a stream that
// stands alone. FORMAT.md specifies the bytes, and testdata has vectors.
//
// # What is promised
//
// What is read is what this member wrote, in this file, under this name, at this
// place; or there is an error that names the file. A file has a header, which
// binds its kind, its base name, cluster and member, and names the data key
// under which a random salt gives the file a key of its own. Then come frames,
// AES-256-GCM each, bound to their index and to whether they are the last.
//
// What one file cannot show is that it is the newest: a log cut between two
// frames is a log, and yesterday's file is a file. For that the length of one
// log is kept in another ([Tail], [FS.LogTail], [FS.CheckTail]), and the
// journal's segments name each other; package journal sees to that, and checks it
// before Pebble is opened, because Pebble deletes what its MANIFEST does not
// list.
//
// # Two layouts
//
// Files that are written once (tables, blobs, options) have frames of one size,
// so that a place in them is arithmetic, and end with a frame marked final. Sync
// writes it; nothing can be written after that.
//
// Logs (journal segments, MANIFEST) have a frame for every sync, padded to whole
// sectors. At most one frame is not synced at any time, which is what lets a torn
// end be told from an altered one.
//
// # Changing keys under open files
//
// [FS.Reseal] writes a file anew under the active key, frame by frame and byte
// for byte in the same places, puts it under the old name, and exchanges what
// open handles read from and write to. [FS.Inventory] says what is left under
// which key, and [FS.RemoveUnused] ends the keys under which nothing is.
//
// # What to mind
//
// Use one FS for a data directory, and name a file by the same path everywhere.
// Put fault injection and the like underneath it, not on top. Do not copy files
// of a data directory one by one: they open only together.
package seal
