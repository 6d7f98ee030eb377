package process

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// acknowledged is one write that the member has confirmed.
type acknowledged struct {
	value    string
	revision int64
}

// TestEveryAcknowledgedWriteSurvivesSIGKILL kills a member at random moments
// under load; 50 times in the long form.
func TestEveryAcknowledgedWriteSurvivesSIGKILL(t *testing.T) {
	rounds := 8
	if long {
		rounds = 50
	}
	m := newCoffer(t, "--snapshot-count=200", "--snapshot-catchup-entries=50")
	var mu sync.Mutex
	latest := map[string]acknowledged{} // by key
	taken := map[int64]string{}         // revision -> key and value
	for round := range rounds {
		m.start(t)
		c := m.client(t)
		var highest int64
		for key, want := range latest {
			highest = max(highest, want.revision)
			got, err := c.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			// A write that was under way when the member died may have come after it.
			if len(got.Kvs) != 1 || got.Kvs[0].ModRevision < want.revision ||
				got.Kvs[0].ModRevision == want.revision && string(got.Kvs[0].Value) != want.value {
				t.Fatalf("round %d: %s was acknowledged with %q at %d; now %v", round, key, want.value, want.revision, got.Kvs)
			}
			if got.Header.Revision < highest {
				t.Fatalf("round %d: revision %d was acknowledged, the store is at %d", round, highest, got.Header.Revision)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					key, value := fmt.Sprintf("writer-%02d/key-%d", w, i%20), fmt.Sprintf("round %d write %d", round, i)
					r, err := c.Put(ctx, key, value)
					if err != nil {
						return // the member is gone
					}
					mu.Lock()
					if other, twice := taken[r.Header.Revision]; twice {
						t.Errorf("revision %d was given to %s and to %s=%q", r.Header.Revision, other, key, value)
					}
					taken[r.Header.Revision] = key + "=" + value
					latest[key] = acknowledged{value, r.Header.Revision}
					mu.Unlock()
					if w == 0 && i%50 == 49 {
						c.Compact(ctx, r.Header.Revision-10)
					}
				}
			})
		}
		// Not waiting for luck: the moment is to be any moment.
		time.Sleep(time.Duration(50+rand.IntN(700)) * time.Millisecond)
		m.kill()
		cancel()
		wg.Wait()
		c.Close()
	}
	if len(taken) < rounds*10 {
		t.Errorf("only %d writes were acknowledged in %d rounds", len(taken), rounds)
	}
	t.Logf("%d acknowledged writes, %d kills", len(taken), rounds)
}

// A watch that began before a kill goes on behind the last event it told of.
func TestAWatchContinuesOverSIGKILLWithoutLossOrRepetition(t *testing.T) {
	m := newCoffer(t)
	m.start(t)
	c := m.client(t)
	var revisions []int64
	events := c.Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	for round := range 3 {
		for i := range 50 {
			r, err := c.Put(t.Context(), fmt.Sprintf("k%d", i), fmt.Sprint(round))
			if err != nil {
				t.Fatal(err)
			}
			revisions = append(revisions, r.Header.Revision)
		}
		m.kill()
		m.start(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := 0; i < len(revisions); {
		select {
		case r := <-events:
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Events {
				if i == len(revisions) || e.Kv.ModRevision != revisions[i] {
					t.Fatalf("event %d is of revision %d", i, e.Kv.ModRevision)
				}
				i++
			}
		case <-ctx.Done():
			t.Fatalf("%d of %d events were delivered", i, len(revisions))
		}
	}
}
