package watch

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/cofferkv/coffer/mvcc"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// batches makes batches of n events each, of one revision each, without a
// store behind them.
type batches struct {
	rev    int64
	events []mvcc.Events
}

func newBatches(keys, n int) *batches {
	b := &batches{rev: 1}
	for i := range n {
		kv := &mvccpb.KeyValue{Key: benchKey(i % keys), Value: make([]byte, 1024), CreateRevision: 2, ModRevision: 2, Version: 1}
		raw, err := proto.Marshal(kv)
		if err != nil {
			panic(err)
		}
		b.events = append(b.events, mvcc.Events{Events: []mvcc.Event{{KV: kv, Raw: raw}}})
	}
	return b
}

func (b *batches) publish(h *Hub) {
	events := make([]mvcc.Events, len(b.events))
	copy(events, b.events)
	for i := range events {
		b.rev++
		events[i].Revision = b.rev
	}
	h.Publish(b.rev, events)
}

func benchKey(i int) []byte { return fmt.Appendf(nil, "/registry/pods/namespace-%05d", i) }

// BenchmarkPublish measures what a batch of 32 events costs the goroutine that
// applies, while the clients read; ns/op is per batch.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name     string
		watchers int
		single   bool // each watches a key of its own, else all the same range
	}{
		{"none", 0, false},
		{"range/64", 64, false},
		{"range/1000", 1000, false},
		{"range/10000", 10_000, false},
		{"key/64", 64, true},
		{"key/1000", 1000, true},
		{"key/10000", 10_000, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			st := newStore(b)
			defer st.close()
			h := New(st.db, Options{})
			ctx, cancel := context.WithCancel(context.Background())
			var clients sync.WaitGroup
			delivered := make([]int, c.watchers)
			for i := range c.watchers {
				s := h.NewStream()
				r := &pb.WatchCreateRequest{Key: []byte("/registry/pods/"), RangeEnd: []byte("/registry/pods0")}
				if c.single {
					r = &pb.WatchCreateRequest{Key: benchKey(i)}
				}
				s.Watch(r)
				clients.Go(func() {
					defer s.Close()
					for {
						r, err := s.Next(ctx)
						if err != nil {
							return
						}
						delivered[i] += len(r.Events)
					}
				})
			}
			src := newBatches(32, 32)
			b.ReportAllocs()
			for b.Loop() {
				src.publish(h)
			}
			b.StopTimer()
			cancel()
			clients.Wait()
			h.Close()
			n := 0
			for _, d := range delivered {
				n += d
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "delivered/s")
		})
	}
}

// BenchmarkDeliver measures a batch from Publish until the last client has it.
func BenchmarkDeliver(b *testing.B) {
	for _, watchers := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			st := newStore(b)
			defer st.close()
			h := New(st.db, Options{})
			defer h.Close()
			var streams []*Stream
			for range watchers {
				s := h.NewStream()
				defer s.Close()
				watchRange(s, "/registry/pods/", "/registry/pods0", false)
				read(b, s)
				streams = append(streams, s)
			}
			src := newBatches(32, 32)
			b.ReportAllocs()
			for b.Loop() {
				src.publish(h)
				for _, s := range streams {
					if _, err := s.Next(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*watchers*32), "ns/event")
		})
	}
}

// BenchmarkIndex measures how long it takes to find who watches a key, among
// many ranges.
func BenchmarkIndex(b *testing.B) {
	x := newIndex()
	for i := range 10_000 {
		key := benchKey(i)
		x.add(&watcher{}, makeSpan(key, append(key[:len(key):len(key)], 0xff)), 0)
		x.add(&watcher{}, makeSpan(key, nil), 0)
	}
	x.add(&watcher{}, makeSpan([]byte("/registry/"), []byte("/registry0")), 0)
	e := &mvcc.Event{KV: &mvccpb.KeyValue{Key: benchKey(5000)}}
	var found []*group
	for b.Loop() {
		found = x.find(e, found[:0])
	}
	if len(found) != 3 {
		b.Fatalf("found %d groups", len(found))
	}
}
