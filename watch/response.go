package watch

import (
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// NoWatcher is the id in responses that speak of no watcher or of all.
const NoWatcher int64 = -1

// Response is what a stream has to say to its client.
type Response struct {
	WatchID  int64
	Revision int64 // for the header

	Created         bool
	Canceled        bool
	CancelReason    string
	CompactRevision int64 // if not 0: canceled because older revisions have been compacted

	// Events are in the order of revisions. The slice and what it points to
	// are shared with other watchers and must not be modified. Without any,
	// and if nothing above is set, this is a progress notification.
	Events []*mvccpb.Event

	// Fragment says that the watcher accepts a large response in pieces.
	Fragment bool
}

// Messages returns r as it goes over the wire, every message with the same
// header: one message, or, if the watcher asked for fragments, as many as it
// takes to keep each below maxBytes, as far as single events allow it. All but
// the last are then marked as fragments.
func (r *Response) Messages(header *pb.ResponseHeader, maxBytes int) iter.Seq[*pb.WatchResponse] {
	message := func(events []*mvccpb.Event, fragment bool) *pb.WatchResponse {
		return &pb.WatchResponse{
			Header:          header,
			WatchId:         r.WatchID,
			Created:         r.Created,
			Canceled:        r.Canceled,
			CancelReason:    r.CancelReason,
			CompactRevision: r.CompactRevision,
			Fragment:        fragment,
			Events:          events,
		}
	}
	return func(yield func(*pb.WatchResponse) bool) {
		whole := message(r.Events, false)
		if !r.Fragment || len(r.Events) < 2 || proto.Size(whole) < maxBytes {
			yield(whole)
			return
		}
		empty := proto.Size(message(nil, true))
		for rest := r.Events; len(rest) > 0; {
			n, size := 0, empty
			for _, e := range rest {
				size += eventsTagSize + protowire.SizeBytes(proto.Size(e))
				if n > 0 && size >= maxBytes {
					break
				}
				n++
			}
			if !yield(message(rest[:n:n], n < len(rest))) {
				return
			}
			rest = rest[n:]
		}
	}
}

// eventsTagSize is the size of the tag of WatchResponse.events, field 11.
var eventsTagSize = protowire.SizeTag(11)
