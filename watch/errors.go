package watch

import "errors"

// ErrClosed says that the stream or the hub has been closed.
var ErrClosed = errors.New("watch: stream is closed")

// Reasons for which a watcher is not created. The texts are etcd's.
const (
	reasonCompacted  = "etcdserver: mvcc: required revision has been compacted"
	reasonEmptyRange = "mvcc: watcher range is empty"
	reasonDuplicate  = "mvcc: duplicate watch ID provided on the WatchStream"
)
