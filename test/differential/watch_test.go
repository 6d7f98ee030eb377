package differential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// watcher is a watch stream with one watcher, and everything it was told.
type watcher struct {
	side   *side
	stream pb.Watch_WatchClient
	cancel context.CancelFunc

	mu       sync.Mutex
	changed  *sync.Cond
	created  *pb.WatchResponse
	canceled *pb.WatchResponse
	events   []*mvccpb.Event
	progress int64 // the highest revision up to which everything was told
	failure  error
}

func newWatcher(s *side, r *pb.WatchCreateRequest) (*watcher, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := s.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &watcher{side: s, stream: stream, cancel: cancel}
	w.changed = sync.NewCond(&w.mu)
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	if err != nil {
		cancel()
		return nil, err
	}
	go w.receive()
	if !w.wait(func() bool { return w.created != nil }) {
		return nil, fmt.Errorf("%s does not create a watcher: %w", s.name, w.failure)
	}
	return w, nil
}

func (w *watcher) receive() {
	var last int64
	for {
		r, err := w.stream.Recv()
		w.mu.Lock()
		switch {
		case err != nil:
			w.failure = errors.Join(w.failure, err)
		case r.Created:
			w.created = r
			if r.Canceled {
				w.canceled = r
			}
		case r.Canceled:
			w.canceled = r
		case r.WatchId == -1 || len(r.Events) == 0:
			w.progress = max(w.progress, r.Header.Revision)
		}
		if err == nil {
			for _, ev := range r.Events {
				if ev.Kv.ModRevision < last || !r.Fragment && ev.Kv.ModRevision > r.Header.Revision {
					w.failure = fmt.Errorf("%s tells of revision %d after %d under header revision %d",
						w.side.name, ev.Kv.ModRevision, last, r.Header.Revision)
				}
				last = ev.Kv.ModRevision
			}
			w.events = append(w.events, r.Events...)
		}
		w.changed.Broadcast()
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wait waits until ok holds, and gives up when the stream fails or 20 s have
// passed.
func (w *watcher) wait(ok func() bool) bool {
	timer := time.AfterFunc(20*time.Second, func() {
		w.mu.Lock()
		w.failure = errors.Join(w.failure, fmt.Errorf("%s is silent for 20 s", w.side.name))
		w.changed.Broadcast()
		w.mu.Unlock()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok() && w.failure == nil {
		w.changed.Wait()
	}
	return ok()
}

// sync waits until the watcher has been told everything up to a revision, or
// has been canceled. Requests for progress that come too early are lost, so
// they are repeated.
func (w *watcher) sync(revision int64) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			_ = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
				ProgressRequest: &pb.WatchProgressRequest{}}})
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	if !w.wait(func() bool { return w.progress >= revision || w.canceled != nil }) {
		return fmt.Errorf("waiting for revision %d: %w", revision, w.failure)
	}
	return nil
}

// story is what was told, a line each, for comparison.
func (w *watcher) story() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := []string{fmt.Sprintf("created at revision %d", w.created.Header.Revision)}
	for _, ev := range w.events {
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
		lines = append(lines, fmt.Sprintf("%d %v %q %x", ev.Kv.ModRevision, ev.Type, ev.Kv.Key, data))
	}
	if c := w.canceled; c != nil {
		lines = append(lines, fmt.Sprintf("canceled compact=%d reason=%q", c.CompactRevision, c.CancelReason))
	}
	return append(lines, "end")
}

// pair is the same watcher on both sides.
type pair struct {
	request *pb.WatchCreateRequest
	a, b    *watcher
}

// begun reports whether the watch is to be told something at a revision. One
// that starts in the future is not told of progress either.
func (p *pair) begun(revision int64) bool { return p.request.StartRevision <= revision }

// newPair creates a watcher on both sides, and waits until both have been told
// the past: a compaction would otherwise race with that.
func newPair(a, b *side, r *pb.WatchCreateRequest, revision int64) (*pair, error) {
	p := &pair{request: r}
	var err error
	if p.a, err = newWatcher(a, r); err != nil {
		return nil, err
	}
	if p.b, err = newWatcher(b, r); err != nil {
		return nil, err
	}
	if !p.begun(revision) {
		return p, nil
	}
	return p, p.sync(revision)
}

func (p *pair) sync(revision int64) error {
	return errors.Join(p.a.sync(revision), p.b.sync(revision))
}

// compare returns nil if both were told the same.
func (p *pair) compare() error {
	a, b := p.a.story(), p.b.story()
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n == len(a) && n == len(b) {
		return nil
	}
	upTo := func(lines []string) string { return strings.Join(lines[max(n-2, 0):min(n+3, len(lines))], "\n  ") }
	return fmt.Errorf("watch %v\nis told by %s\n  %s\nand by %s\n  %s",
		p.request, p.a.side.name, upTo(a), p.b.side.name, upTo(b))
}

func (p *pair) close() {
	p.a.cancel()
	p.b.cancel()
}

// watchOf makes a random watch.
func watchOf(g *requests.Generator) *pb.WatchCreateRequest {
	rng := g.Rand()
	r := &pb.WatchCreateRequest{PrevKv: rng.IntN(2) == 0, Fragment: rng.IntN(8) == 0}
	r.Key, r.RangeEnd = g.Keys()
	if rng.IntN(3) == 0 {
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	}
	if rng.IntN(3) > 0 {
		r.StartRevision = g.Revision()
	}
	for _, f := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE} {
		if rng.IntN(6) == 0 {
			r.Filters = append(r.Filters, f)
		}
	}
	return r
}
