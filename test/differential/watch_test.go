package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// stream is a watch stream of one side, and everything that came from it.
type stream struct {
	side   *side
	client pb.Watch_WatchClient
	cancel context.CancelFunc

	mu       sync.Mutex
	changed  *sync.Cond
	watches  []*watch         // in the order of their creation, failures included
	byID     map[int64]*watch // the last of each id
	progress int64            // the highest revision up to which everything was told
	failure  error
}

// watch is what was told about one watch.
type watch struct {
	created  *pb.WatchResponse
	canceled *pb.WatchResponse
	events   []*mvccpb.Event
}

func newStream(s *side) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := s.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &stream{side: s, client: client, cancel: cancel, byID: make(map[int64]*watch)}
	w.changed = sync.NewCond(&w.mu)
	go w.receive()
	return w, nil
}

func (w *stream) receive() {
	for {
		r, err := w.client.Recv()
		w.mu.Lock()
		if err != nil {
			w.failure = errors.Join(w.failure, err)
		} else {
			w.take(r)
		}
		w.changed.Broadcast()
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (w *stream) take(r *pb.WatchResponse) {
	if r.Created {
		n := &watch{created: r}
		if r.Canceled {
			n.canceled = r
		} else {
			w.byID[r.WatchId] = n
		}
		w.watches = append(w.watches, n)
		return
	}
	t := w.byID[r.WatchId]
	switch {
	case r.Canceled:
		t.canceled = r
	case len(r.Events) == 0:
		w.progress = max(w.progress, r.Header.Revision)
	}
	if len(r.Events) > 0 && w.side.loseEvent.CompareAndSwap(true, false) {
		r.Events = r.Events[1:]
	}
	for _, ev := range r.Events {
		if n := len(t.events); n > 0 && t.events[n-1].Kv.ModRevision > ev.Kv.ModRevision || ev.Kv.ModRevision > r.Header.Revision {
			w.failure = fmt.Errorf("%s tells watch %d of revision %d out of order, under header revision %d",
				w.side.name, r.WatchId, ev.Kv.ModRevision, r.Header.Revision)
		}
		t.events = append(t.events, ev)
	}
}

// wait waits until ok holds, and gives up when the stream fails or 20 s have
// passed.
func (w *stream) wait(what string, ok func() bool) error {
	timer := time.AfterFunc(20*time.Second, func() {
		w.mu.Lock()
		w.failure = errors.Join(w.failure, errors.New("nothing came for 20 s"))
		w.changed.Broadcast()
		w.mu.Unlock()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok() {
		if w.failure != nil {
			return fmt.Errorf("waiting for %s of %s: %w", what, w.side.name, w.failure)
		}
		w.changed.Wait()
	}
	return nil
}

// create creates a watch and returns it when the side has answered.
func (w *stream) create(r *pb.WatchCreateRequest) (*watch, error) {
	n := len(w.watches)
	err := w.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	if err == nil {
		err = w.wait("the creation of a watch", func() bool { return len(w.watches) > n })
	}
	if err != nil {
		return nil, err
	}
	return w.watches[n], nil
}

// end asks for the end of a watch. If it is still there, the end is answered.
func (w *stream) end(id int64, t *watch) error {
	err := w.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	if err != nil || t == nil {
		return err
	}
	return w.wait("the end of a watch", func() bool { return t.canceled != nil })
}

// sync waits until all watches have been told everything up to a revision, or
// have been canceled. Requests for progress that come too early are lost, so
// they are repeated.
func (w *stream) sync(revision int64) error {
	if w.over() {
		return nil
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			_ = w.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
				ProgressRequest: &pb.WatchProgressRequest{}}})
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return w.wait(fmt.Sprintf("revision %d", revision), func() bool { return w.progress >= revision || w.allCanceled() })
}

func (w *stream) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allCanceled()
}

func (w *stream) allCanceled() bool {
	return !slices.ContainsFunc(w.watches, func(t *watch) bool { return t.canceled == nil })
}

// story is what a watch was told, a line each.
func (w *stream) story(t *watch) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, ev := range t.events {
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
		lines = append(lines, fmt.Sprintf("%d %v %q %x", ev.Kv.ModRevision, ev.Type, ev.Kv.Key, data))
	}
	if c := t.canceled; c != nil {
		lines = append(lines, fmt.Sprintf("canceled compact=%d reason=%q", c.CompactRevision, c.CancelReason))
	}
	return append(lines, "end")
}

// compareStories compares what two watches were told.
func compareStories(r *pb.WatchCreateRequest, v *stream, x *watch, w *stream, y *watch) error {
	if r.PrevKv {
		forgive(v, x, y)
		forgive(w, y, x)
	}
	a, b := v.story(x), w.story(y)
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n == len(a) && n == len(b) {
		return nil
	}
	around := func(lines []string) string { return strings.Join(lines[max(n-2, 0):min(n+3, len(lines))], "\n  ") }
	return fmt.Errorf("watch %v\nis told by %s\n  %s\nand by %s\n  %s", r, v.side.name, around(a), w.side.name, around(b))
}

// forgive lends an etcd the previous versions that it did not tell of the past:
// it may begin to tell a watch of that before it has noted that the watch wants
// previous versions.
func forgive(w *stream, t, other *watch) {
	if !w.side.etcd {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, ev := range t.events {
		if ev.Kv.ModRevision > t.created.Header.Revision || i >= len(other.events) {
			return
		}
		if ev.PrevKv == nil {
			ev.PrevKv = other.events[i].PrevKv
		}
	}
}

// pair is the same stream on both sides.
type pair struct {
	a, b    *stream
	watches []pairedWatch
	apart   bool  // holds one watch only
	future  int64 // if not 0, the revision at which it begins
}

type pairedWatch struct {
	request *pb.WatchCreateRequest
	id      int64
	a, b    *watch
}

func newPair(a, b *side) (*pair, error) {
	p := &pair{}
	var err error
	if p.a, err = newStream(a); err != nil {
		return nil, err
	}
	if p.b, err = newStream(b); err != nil {
		p.a.cancel()
		return nil, err
	}
	return p, nil
}

// create creates a watch on both sides.
func (p *pair) create(r *pb.WatchCreateRequest, revision int64) error {
	x, err := p.a.create(r)
	if err != nil {
		return err
	}
	y, err := p.b.create(r)
	if err != nil {
		return err
	}
	if !proto.Equal(neutral(x.created), neutral(y.created)) {
		return fmt.Errorf("creating watch %v\n%s: %v\n%s: %v", r, p.a.side.name, x.created, p.b.side.name, y.created)
	}
	p.watches = append(p.watches, pairedWatch{r, x.created.WatchId, x, y})
	if r.StartRevision > revision {
		p.future = r.StartRevision
	}
	return nil
}

// sync waits until both sides have told everything. A stream with a watch that
// starts in the future is not told of progress.
func (p *pair) sync(revision int64) error {
	if p.future > revision {
		return nil
	}
	return errors.Join(p.a.sync(revision), p.b.sync(revision))
}

// end asks for the end of a watch, which may not be there.
func (p *pair) end(id, revision int64) error {
	if err := p.sync(revision); err != nil {
		return err
	}
	var x, y *watch
	for _, w := range p.watches {
		if w.id == id && w.a.canceled == nil {
			x, y = w.a, w.b
		}
	}
	return errors.Join(p.a.end(id, x), p.b.end(id, y))
}

// compare returns nil if both sides told the same.
func (p *pair) compare() error {
	for _, w := range p.watches {
		if err := compareStories(w.request, p.a, w.a, p.b, w.b); err != nil {
			return err
		}
	}
	return nil
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
