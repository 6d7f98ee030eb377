package watch

import (
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Response is what a stream has to say to its client.
type Response struct {
	WatchID         int64 // NoWatcher: speaks of none or of all of them
	Revision        int64 // for the header
	Created         bool
	Canceled        bool
	CancelReason    string
	CompactRevision int64
	// Events are shared with other watchers and must not be modified.
	Events []*mvccpb.Event
	// Fragment says that the watcher accepts large responses in pieces.
	Fragment bool
}

// Messages returns r as messages for the wire, all with the same header: one,
// or, if the watcher asked for fragments, as many as it takes to keep each
// below maxBytes.
func (r *Response) Messages(header *pb.ResponseHeader, maxBytes int) iter.Seq[*pb.WatchResponse] {
	panic("watch: not written yet")
}
