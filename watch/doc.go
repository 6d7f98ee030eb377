// Package watch delivers the events of committed revisions to watchers.
//
// A [Hub] is handed every committed batch by the goroutine that applies them
// and passes it on to the [Stream] of each watcher that it concerns. A stream
// belongs to one client, carries any number of watchers and is read with
// Next by one goroutine.
//
// What a watcher may rely on: it is told every event in its range from its
// start revision on, once, in the order of revisions, whatever the client, the
// network or other watchers do. A revision is never split over responses
// (unless the watcher accepts fragments), and the events of one batch come in
// one response as long as that stays below some hundred KiB. A progress
// notification of revision R comes after all events up to R. The first
// response of a watcher says that it was created.
//
// # How
//
// A watcher is live or it lags. To a live one, Publish appends the events of
// a batch; they wait in the stream until Next takes them. What may wait is
// bounded: a watcher for which there is no room lags from then on, as does
// one that starts in the past. Publish passes over it, so that a client that
// does not read costs others nothing, and memory does not grow.
//
// A lagging watcher is brought up to date by Next, that is by the goroutine of
// its own client, in bounded pieces: from the batches that the hub remembers,
// or from the store by revision, if they are older. Watchers of a stream take
// turns, and so do streams that read from the store. A watcher that has been
// told everything remembered becomes live again under the lock that excludes
// Publish; so does a new one. That lock is never held while something waits
// for a disk or a client.
//
// Only a watcher's own progress moves its position, and only forward: not even
// the replacement of the store by a leader's snapshot turns it back.
//
// Events are shared: there is one for all watchers in a range, encoded once
// around the key-value as the store keeps it, and the previous version of its
// key is read once for all that asked for it. The watchers of one range get the
// same slice of events.
//
// The watchers of one range are woken together, and if they are many, not for
// every batch: after each time they rest, for some milliseconds at most, and are
// then told at once what has been published meanwhile.
package watch
