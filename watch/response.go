package watch

import (
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
	Events []*Event

	// Fragment says that the watcher accepts a large response in pieces.
	Fragment bool
}

// Message is a WatchResponse. The events are in Raw, in wire encoding; they
// are not in WatchResponse.Events.
type Message struct {
	*pb.WatchResponse
	Raw []*Event
}

// Size returns the size of the message in bytes.
func (m *Message) Size() int {
	size := proto.Size(m.WatchResponse)
	for _, e := range m.Raw {
		size += e.Size()
	}
	return size
}

// Messages returns r as it goes over the wire, every message with the same
// header: one message, or, if the watcher asked for fragments, as many as it
// takes to keep each below maxBytes, as far as single events allow it. All but
// the last are then marked as fragments.
func (r *Response) Messages(header *pb.ResponseHeader, maxBytes int) iter.Seq[Message] {
	message := func(events []*Event, fragment bool) Message {
		return Message{&pb.WatchResponse{
			Header:          header,
			WatchId:         r.WatchID,
			Created:         r.Created,
			Canceled:        r.Canceled,
			CancelReason:    r.CancelReason,
			CompactRevision: r.CompactRevision,
			Fragment:        fragment,
		}, events}
	}
	return func(yield func(Message) bool) {
		whole := message(r.Events, false)
		if !r.Fragment || len(r.Events) < 2 || whole.Size() < maxBytes {
			yield(whole)
			return
		}
		empty := proto.Size(message(nil, true).WatchResponse)
		for rest := r.Events; len(rest) > 0; {
			n, size := 0, empty
			for _, e := range rest {
				size += e.Size()
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
