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
	created  []*pb.WatchResponse         // in their order, failures included
	canceled map[int64]*pb.WatchResponse // by watch id
	events   map[int64][]*mvccpb.Event   // by watch id
	progress int64                       // the highest revision up to which everything was told
	failure  error
}

func newStream(s *side) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := s.watch.Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &stream{
		side: s, client: client, cancel: cancel,
		canceled: make(map[int64]*pb.WatchResponse), events: make(map[int64][]*mvccpb.Event),
	}
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
	switch {
	case r.Created:
		w.created = append(w.created, r)
	case r.Canceled:
		w.canceled[r.WatchId] = r
	case len(r.Events) == 0:
		w.progress = max(w.progress, r.Header.Revision)
	}
	if len(r.Events) > 0 && w.side.loseEvent.CompareAndSwap(true, false) {
		r.Events = r.Events[1:]
	}
	for _, ev := range r.Events {
		told := w.events[r.WatchId]
		if n := len(told); n > 0 && told[n-1].Kv.ModRevision > ev.Kv.ModRevision || ev.Kv.ModRevision > r.Header.Revision {
			w.failure = fmt.Errorf("%s tells watch %d of revision %d out of order, under header revision %d",
				w.side.name, r.WatchId, ev.Kv.ModRevision, r.Header.Revision)
		}
		w.events[r.WatchId] = append(told, ev)
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

// create creates a watch and returns what the side says to it.
func (w *stream) create(r *pb.WatchCreateRequest) (*pb.WatchResponse, error) {
	n := len(w.created)
	err := w.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	if err == nil {
		err = w.wait("the creation of a watch", func() bool { return len(w.created) > n })
	}
	if err != nil {
		return nil, err
	}
	return w.created[n], nil
}

func (w *stream) end(id int64, live bool) error {
	err := w.client.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	if err != nil || !live {
		return err
	}
	return w.wait("the end of a watch", func() bool { return w.canceled[id] != nil })
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
	return !slices.ContainsFunc(w.created, func(r *pb.WatchResponse) bool {
		return !r.Canceled && w.canceled[r.WatchId] == nil
	})
}

// story is what a watch was told, a line each.
func (w *stream) story(id int64) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, ev := range w.events[id] {
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
		lines = append(lines, fmt.Sprintf("%d %v %q %x", ev.Kv.ModRevision, ev.Type, ev.Kv.Key, data))
	}
	if c := w.canceled[id]; c != nil {
		lines = append(lines, fmt.Sprintf("canceled compact=%d reason=%q", c.CompactRevision, c.CancelReason))
	}
	return append(lines, "end")
}

// compareStories compares what two watches were told.
func compareStories(r *pb.WatchCreateRequest, v *stream, vid int64, w *stream, wid int64) error {
	a, b := v.story(vid), w.story(wid)
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

// pair is the same stream on both sides.
type pair struct {
	a, b    *stream
	watches map[int64]*pb.WatchCreateRequest // by id
	ended   map[int64]bool
	apart   bool  // holds one watch only
	future  int64 // if not 0, the revision at which it begins
}

func newPair(a, b *side) (*pair, error) {
	p := &pair{watches: make(map[int64]*pb.WatchCreateRequest), ended: make(map[int64]bool)}
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

// create creates a watch on both sides, and waits until it has been told the
// past: a compaction would otherwise race with that.
func (p *pair) create(r *pb.WatchCreateRequest, revision int64) error {
	x, err := p.a.create(r)
	if err != nil {
		return err
	}
	y, err := p.b.create(r)
	if err != nil {
		return err
	}
	if !proto.Equal(neutral(x), neutral(y)) {
		return fmt.Errorf("creating watch %v\n%s: %v\n%s: %v", r, p.a.side.name, x, p.b.side.name, y)
	}
	if x.Canceled {
		return nil
	}
	p.watches[x.WatchId] = r
	if r.StartRevision > revision {
		p.future = r.StartRevision
	}
	return p.sync(revision)
}

// sync waits until both sides have told everything. A stream with a watch that
// starts in the future is not told of progress.
func (p *pair) sync(revision int64) error {
	if p.future > revision {
		return nil
	}
	return errors.Join(p.a.sync(revision), p.b.sync(revision))
}

// end ends a watch, or does nothing if there is none of that id.
func (p *pair) end(id, revision int64) error {
	live := p.watches[id] != nil && !p.ended[id] && p.a.canceled[id] == nil
	if err := p.sync(revision); err != nil {
		return err
	}
	p.ended[id] = p.ended[id] || live
	return errors.Join(p.a.end(id, live), p.b.end(id, live))
}

// compare returns nil if both sides told the same.
func (p *pair) compare() error {
	for id, r := range p.watches {
		if err := compareStories(r, p.a, id, p.b, id); err != nil {
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
