package watch

import (
	"context"
	"time"

	"github.com/cofferkv/coffer/mvcc"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Options configures a Hub.
type Options struct {
	// ProgressInterval is how often an idle watcher that asked for progress
	// notifications gets one. 0: 10 minutes.
	ProgressInterval time.Duration
}

// Hub hands the events of committed batches to watchers. Its methods may be
// called from any goroutine, Publish and Restore from the applying one only.
type Hub struct{}

// New returns a hub whose first published revision is that of db.
func New(db *mvcc.DB, o Options) *Hub { panic("watch: not written yet") }

// Publish hands out the events of a committed batch, which ends at revision
// rev. It never waits for a client.
func (h *Hub) Publish(rev int64, events []mvcc.Events) { panic("watch: not written yet") }

// Restore continues on db, whose content was replaced by a leader's snapshot.
// When it returns, nothing reads from the former store any more.
func (h *Hub) Restore(db *mvcc.DB) { panic("watch: not written yet") }

// Revision returns the revision up to which events have been published.
func (h *Hub) Revision() int64 { panic("watch: not written yet") }

// Close ends all streams. When it returns, nothing reads from the store.
func (h *Hub) Close() { panic("watch: not written yet") }

// NewStream returns a stream without watchers.
func (h *Hub) NewStream() *Stream { panic("watch: not written yet") }

// Stream carries the responses of many watchers to one client. Next is for
// one goroutine, the other methods are for any.
type Stream struct{}

// Watch creates a watcher. Success and failure are told by a response with
// Created set. Permission has been checked by the caller.
func (s *Stream) Watch(r *pb.WatchCreateRequest) { panic("watch: not written yet") }

// Refuse answers a request to create a watcher with a reason why not.
func (s *Stream) Refuse(reason string) { panic("watch: not written yet") }

// Cancel ends a watcher. No event of it is returned by Next afterwards.
func (s *Stream) Cancel(id int64) { panic("watch: not written yet") }

// RequestProgress asks for a response with the revision up to which all
// watchers of the stream have been told everything.
func (s *Stream) RequestProgress() { panic("watch: not written yet") }

// Next returns the next response, as soon as there is one.
func (s *Stream) Next(ctx context.Context) (*Response, error) { panic("watch: not written yet") }

// Close ends the stream and its watchers.
func (s *Stream) Close() { panic("watch: not written yet") }
