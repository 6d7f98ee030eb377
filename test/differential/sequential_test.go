package differential

import (
	"context"
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// maxWatches is how many watches are open at a time.
const maxWatches = 8

// sequence asks both sides the same, one request after the other, and returns
// the first difference.
func sequence(ctx context.Context, a, b *side, g *requests.Generator, steps int) error {
	var watches []*pair
	defer func() {
		for _, w := range watches {
			w.close()
		}
	}()
	var revision int64 = 1
	end := func(w *pair) error {
		defer w.close()
		if w.begun(revision) {
			if err := w.sync(revision); err != nil {
				return fmt.Errorf("watch %v: %w", w.request, err)
			}
		}
		return w.compare()
	}
	for step := range steps {
		if g.Rand().IntN(50) == 0 {
			w, err := newPair(a, b, watchOf(g), revision)
			if w != nil {
				watches = append(watches, w)
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", step, err)
			}
		}
		if len(watches) > maxWatches {
			i := g.Rand().IntN(len(watches))
			w := watches[i]
			watches = slices.Delete(watches, i, i+1)
			if err := end(w); err != nil {
				return fmt.Errorf("step %d: %w", step, err)
			}
		}
		r := next(g)
		if _, ok := r.message.(*pb.CompactionRequest); ok {
			// Events told after it would lack the previous versions.
			for _, w := range watches {
				if w.begun(revision) {
					if err := w.sync(revision); err != nil {
						return fmt.Errorf("step %d: watch %v: %w", step, w.request, err)
					}
				}
			}
		}
		left, right := ask(ctx, a, r), ask(ctx, b, r)
		if !left.equal(right) {
			return fmt.Errorf("step %d: %v\n%s: %v\n%s: %v", step, r, a.name, left, b.name, right)
		}
		revision = max(revision, revisionOf(left.resp))
		g.Observe(revision)
		if g.Rand().IntN(40) == 0 {
			// Alarms would hold for long, as ending one is as rare as raising it.
			for _, t := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
				for _, s := range []*side{a, b} {
					if _, err := s.maint.Alarm(ctx, alarm(int(pb.AlarmRequest_DEACTIVATE), t)); err != nil {
						return fmt.Errorf("step %d: ending an alarm of %s: %w", step, s.name, err)
					}
				}
			}
		}
	}
	for len(watches) > 0 {
		w := watches[0]
		watches = watches[1:]
		if err := end(w); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
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
		done := false
		return func(m proto.Message) proto.Message {
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
}
