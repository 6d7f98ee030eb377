package watch

import "errors"

// ErrClosed says that the stream or the hub has been closed.
var ErrClosed = errors.New("watch: stream is closed")

// NoWatcher is the id in responses that speak of no watcher, or of all.
const NoWatcher int64 = -1
