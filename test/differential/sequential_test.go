package differential

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// maxStreams is how many watch streams are open at a time, and maxWatches how
// many watches one of them has.
const (
	maxStreams = 6
	maxWatches = 4
)

// sequencer asks both sides the same, one request after the other.
type sequencer struct {
	a, b     *side
	g        *requests.Generator
	streams  []*pair
	revision int64
	compact  int64
	// A server remembers the hash of what was there before a compaction until
	// it is restarted. As coffer is killed, it may have to compact again, and
	// then remembers it again. So these are not asked for.
	compactions map[int64]bool
	restarted   int64 // revision at the last restart

	// A compaction to a revision in which one transaction deletes a key and
	// creates it again makes etcd lose the key, and die when it is read. So
	// there is none to what transactions have made.
	transactions map[int64]bool
}

// sequence returns the first difference.
func sequence(ctx context.Context, a, b *side, g *requests.Generator, steps int) error {
	s := &sequencer{a: a, b: b, g: g, revision: 1, compactions: make(map[int64]bool), transactions: make(map[int64]bool)}
	defer func() {
		for _, p := range s.streams {
			p.close()
		}
	}()
	for step := range steps {
		if err := s.step(ctx); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	for len(s.streams) > 0 {
		if err := s.closeStream(0); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
}

func (s *sequencer) step(ctx context.Context) error {
	rng := s.g.Rand()
	if rng.IntN(1000) == 0 {
		for len(s.streams) > 0 {
			if err := s.closeStream(0); err != nil {
				return err
			}
		}
		s.a.restart()
		s.b.restart()
		s.restarted = s.revision
	}
	if rng.IntN(30) == 0 {
		if err := s.watch(ctx); err != nil {
			return err
		}
	}
	r := next(s.g)
	if h, ok := r.message.(*pb.HashKVRequest); ok && h.Revision <= s.restarted && s.compactions[h.Revision] {
		return nil
	}
	if c, ok := r.message.(*pb.CompactionRequest); ok {
		for s.transactions[c.Revision] {
			c.Revision--
		}
		// Events told after it would lack the previous versions.
		for _, p := range s.streams {
			if err := p.sync(s.revision); err != nil {
				return err
			}
		}
	}
	if err := s.ask(ctx, r); err != nil {
		return err
	}
	if rng.IntN(40) == 0 {
		// Alarms would hold for long, as ending one is as rare as raising it.
		return s.endAlarms(ctx)
	}
	return nil
}

func (s *sequencer) ask(ctx context.Context, r request) error {
	left, right := ask(ctx, s.a, r), ask(ctx, s.b, r)
	if !left.equal(right) {
		return fmt.Errorf("%v\n%s: %v\n%s: %v", r, s.a.name, left, s.b.name, right)
	}
	s.note(r, left)
	return nil
}

// note remembers what an answer tells of the state.
func (s *sequencer) note(r request, left outcome) {
	if c, ok := r.message.(*pb.CompactionRequest); ok && left.err == nil {
		s.compact = c.Revision
		s.compactions[c.Revision] = true
	}
	if _, ok := r.message.(*pb.TxnRequest); ok {
		s.transactions[revisionOf(left.resp)] = true
	}
	s.revision = max(s.revision, revisionOf(left.resp))
	s.g.Observe(s.revision)
}

func (s *sequencer) endAlarms(ctx context.Context) error {
	for _, t := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
		if err := s.ask(ctx, request{message: alarm(int(pb.AlarmRequest_DEACTIVATE), t)}); err != nil {
			return err
		}
	}
	return nil
}

// create creates a watch and waits until it has been told the past: a
// compaction would otherwise race with that. Only progress up to a revision
// that is made after the creation is sure to include it.
func (s *sequencer) create(ctx context.Context, p *pair, r *pb.WatchCreateRequest) error {
	if err := p.create(r, s.revision); err != nil {
		return err
	}
	if err := s.endAlarms(ctx); err != nil {
		return err
	}
	if err := s.ask(ctx, request{message: &pb.PutRequest{Key: []byte("created")}}); err != nil {
		return err
	}
	return p.sync(s.revision)
}

// watch creates a watch, on a stream of its own or beside others, or ends one.
func (s *sequencer) watch(ctx context.Context) error {
	rng := s.g.Rand()
	var p *pair
	if len(s.streams) > 0 {
		p = s.streams[rng.IntN(len(s.streams))]
	}
	r := watchOf(s.g)
	// A watch that cannot be told of progress, because it begins in the future
	// or has been compacted away, keeps the others of its stream from it.
	apart := r.StartRevision > s.revision || r.StartRevision != 0 && r.StartRevision <= s.compact
	switch {
	case p != nil && rng.IntN(4) == 0:
		return p.end(rng.Int64N(maxWatches), s.revision)
	case p != nil && rng.IntN(2) == 0 && !apart && !p.apart && len(p.watches) < maxWatches:
		r.WatchId = rng.Int64N(maxWatches) // 0 is any
		return s.create(ctx, p, r)
	}
	if len(s.streams) == maxStreams {
		if err := s.closeStream(rng.IntN(maxStreams)); err != nil {
			return err
		}
	}
	p, err := newPair(s.a, s.b)
	if err != nil {
		return err
	}
	s.streams = append(s.streams, p)
	p.apart = apart
	return s.create(ctx, p, r)
}

func (s *sequencer) closeStream(i int) error {
	p := s.streams[i]
	s.streams = slices.Delete(s.streams, i, i+1)
	defer p.close()
	if err := p.sync(s.revision); err != nil {
		return err
	}
	return p.compare()
}

// The comparison of etcd with itself shows that what it compares does not
// depend on the moment.
func TestEtcdAgreesWithItself(t *testing.T) {
	a, b := startEtcd(t), startEtcd(t)
	b.name = "etcd again"
	if err := sequence(t.Context(), a, b, requests.New(1), 1000); err != nil {
		t.Fatal(err)
	}
}

// A planted difference must be found, or the comparison proves nothing.
func TestAPlantedDifferenceIsFound(t *testing.T) {
	once := func(change func(proto.Message) bool) func(proto.Message) proto.Message {
		var mu sync.Mutex
		done := false
		return func(m proto.Message) proto.Message {
			mu.Lock()
			defer mu.Unlock()
			if !done {
				done = change(m)
			}
			return m
		}
	}
	for name, change := range map[string]func(proto.Message) bool{
		"count": func(m proto.Message) bool {
			r, ok := m.(*pb.RangeResponse)
			if ok {
				r.Count++
			}
			return ok
		},
		"value": func(m proto.Message) bool {
			r, ok := m.(*pb.RangeResponse)
			if ok = ok && len(r.Kvs) > 0; ok {
				r.Kvs[0].Value = append(r.Kvs[0].Value, '!')
			}
			return ok
		},
		"revision of a nested range": func(m proto.Message) bool {
			r, ok := m.(*pb.TxnResponse)
			if !ok {
				return false
			}
			for _, op := range r.Responses {
				if rr := op.GetResponseRange(); rr != nil {
					rr.Header.Revision++
					return true
				}
			}
			return false
		},
		"hash": func(m proto.Message) bool {
			r, ok := m.(*pb.HashKVResponse)
			if ok {
				r.Hash ^= 1
			}
			return ok
		},
		"previous value": func(m proto.Message) bool {
			r, ok := m.(*pb.PutResponse)
			if ok = ok && r.PrevKv != nil; ok {
				r.PrevKv.Lease++
			}
			return ok
		},
		"lease keys": func(m proto.Message) bool {
			r, ok := m.(*pb.LeaseTimeToLiveResponse)
			if ok = ok && len(r.Keys) > 0; ok {
				r.Keys = r.Keys[1:]
			}
			return ok
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := startEtcd(t), startEtcd(t)
			b.tamper = once(change)
			err := sequence(t.Context(), a, b, requests.New(2), 5000)
			if err == nil {
				t.Fatal("the difference was not found")
			}
			t.Log(err)
		})
	}
	t.Run("event", func(t *testing.T) {
		a, b := startEtcd(t), startEtcd(t)
		b.loseEvent.Store(true)
		if err := sequence(t.Context(), a, b, requests.New(2), 500); err == nil {
			t.Fatal("the difference was not found")
		}
	})
	t.Run("order of concurrent clients", func(t *testing.T) {
		a, b := startEtcd(t), startEtcd(t)
		a.tamper = once(func(m proto.Message) bool {
			r, ok := m.(*pb.PutResponse)
			if ok {
				r.Header.Revision++
			}
			return ok
		})
		if err := concurrently(t.Context(), a, b, 1, 1, 20); err == nil {
			t.Fatal("the difference was not found")
		}
	})
}
