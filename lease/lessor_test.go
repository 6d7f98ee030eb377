package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestPrepareChoosesAPositiveIDAndRaisesTheTTL(t *testing.T) {
	seen := make(map[int64]bool)
	for range 1000 {
		r := &pb.LeaseGrantRequest{TTL: 1}
		Prepare(r, 2)
		if r.ID <= 0 || seen[r.ID] {
			t.Fatalf("chose id %d", r.ID)
		}
		seen[r.ID] = true
		if r.TTL != 2 {
			t.Fatalf("TTL %d, want the minimum 2", r.TTL)
		}
	}
	r := &pb.LeaseGrantRequest{ID: -5, TTL: MaxTTL + 1}
	Prepare(r, 2)
	if r.ID != -5 || r.TTL != MaxTTL+1 {
		t.Fatalf("changed what a client chose: %v", r)
	}
}

func TestMinTTLIsOneAndAHalfElectionTimeoutsRoundedUp(t *testing.T) {
	for _, c := range []struct {
		ticks int
		tick  time.Duration
		want  int64
	}{
		{10, 100 * time.Millisecond, 2}, // etcd's defaults
		{10, 10 * time.Millisecond, 1},
		{20, 100 * time.Millisecond, 3},
		{21, 100 * time.Millisecond, 4},
		{50, time.Second, 75},
	} {
		if got := MinTTL(c.ticks, c.tick); got != c.want {
			t.Errorf("%d ticks of %v: %d s, want %d s", c.ticks, c.tick, got, c.want)
		}
	}
}

// clock is a clock that stands still.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Now()} }

func (c *clock) lessor() *Lessor {
	return New(Options{Now: func() time.Time { return c.now }})
}

func TestPromoteSpreadsLeasesThatWouldEndTogether(t *testing.T) {
	c := newClock()
	le := c.lessor()
	const n = 5000
	for id := range int64(n) {
		if _, err := le.Grant(id+1, 10); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := le.Grant(n+1, 3600); err != nil {
		t.Fatal(err)
	}
	le.Promote(0)
	for s := range 9 {
		c.now = c.now.Add(time.Second)
		if ids := le.Expired(n); len(ids) > 0 {
			t.Fatalf("%d leases ended after %d s, early", len(ids), s+1)
		}
	}
	ended := 0
	for s := 0; ended < n; s++ {
		c.now = c.now.Add(time.Second)
		ids := le.Expired(n)
		if len(ids) > maxExpiriesPerSecond || len(ids) == 0 {
			t.Fatalf("%d leases ended in second %d, want up to %d", len(ids), s, maxExpiriesPerSecond)
		}
		for _, id := range ids {
			if _, err := le.Revoke(id); err != nil {
				t.Fatal(err)
			}
		}
		ended += len(ids)
	}
	if r, err := le.TimeToLive(n+1, false); err != nil || r.Remaining < 3570 || r.Remaining > 3590 {
		t.Fatalf("a lease beyond the pile was moved: %+v, %v", r, err)
	}
}

func TestRenewReturnsTheErrorOfTheClearingProposal(t *testing.T) {
	le := newClock().lessor()
	if err := le.Load(Record{ID: 1, TTL: 100, Remaining: 50}); err != nil {
		t.Fatal(err)
	}
	le.Promote(0)
	refused := errors.New("no space")
	_, err := le.Renew(context.Background(), 1, func(context.Context) error { return refused })
	if err != refused {
		t.Fatalf("got %v", err)
	}
	if r, _ := le.TimeToLive(1, false); r.Remaining != 50 {
		t.Fatalf("%d s remaining, want the 50 that the log says", r.Remaining)
	}
}

func TestRenewOfAnEndedLeaseGivesUpWithItsContext(t *testing.T) {
	c := newClock()
	le := c.lessor()
	le.Promote(0)
	if _, err := le.Grant(1, 1); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := le.Renew(ctx, 1, nil); err != context.Canceled {
		t.Fatalf("got %v", err)
	}
}

// TestRandomCallsAgreeWithAPlainModel plays random calls against a model that
// knows, for each lease, its keys and the moment before which it must not end.
func TestRandomCallsAgreeWithAPlainModel(t *testing.T) {
	type entry struct {
		ttl, remaining int64
		keys           map[string]bool
		end            time.Time // when a clock runs
		named          time.Time // when Expired may name it again
	}
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newClock()
	le := c.lessor()
	model := make(map[int64]*entry)
	primary := false
	start := func(e *entry, extend time.Duration) {
		ttl := e.ttl
		if e.remaining > 0 {
			ttl = e.remaining
		}
		e.end = c.now.Add(time.Duration(ttl)*time.Second + extend)
		e.named = e.end
	}
	for range 50_000 {
		id := rng.Int64N(20) + 1
		e := model[id]
		key := []byte(fmt.Sprintf("key-%d", rng.IntN(100)))
		switch op := rng.IntN(100); {
		case op < 15:
			ttl := rng.Int64N(20) + 1
			_, err := le.Grant(id, ttl)
			if (err == ErrExists) != (e != nil) {
				t.Fatalf("grant %d: %v", id, err)
			}
			if e == nil {
				e = &entry{ttl: ttl, keys: make(map[string]bool)}
				start(e, 0)
				model[id] = e
			}
		case op < 20:
			keys, err := le.Revoke(id)
			if (err == ErrNotFound) != (e == nil) {
				t.Fatalf("revoke %d: %v", id, err)
			}
			if e != nil && !slices.Equal(keys, slices.Sorted(maps.Keys(e.keys))) {
				t.Fatalf("revoke %d: keys %q, want %v", id, keys, e.keys)
			}
			delete(model, id)
		case op < 50:
			if err := le.Attach(id, key); (err == ErrNotFound) != (e == nil) {
				t.Fatalf("attach: %v", err)
			}
			if e != nil {
				e.keys[string(key)] = true
			}
		case op < 65:
			le.Detach(id, key)
			if e != nil {
				delete(e.keys, string(key))
			}
		case op < 67:
			if _, ok := le.Checkpoint(id, 3); ok != (e != nil) {
				t.Fatalf("checkpoint %d: %v", id, ok)
			}
			if e != nil {
				e.remaining = 3
			}
		case op < 68:
			primary = !primary
			if primary {
				le.Promote(time.Second)
				for _, e := range model {
					start(e, time.Second)
				}
			} else {
				le.Demote()
			}
		case op < 78:
			if e == nil || !primary || !c.now.Before(e.end) {
				continue // told by the scripts
			}
			ttl, err := le.Renew(context.Background(), id, func(context.Context) error {
				le.Checkpoint(id, 0)
				return nil
			})
			if err != nil || ttl != e.ttl {
				t.Fatalf("renew %d: %d, %v", id, ttl, err)
			}
			e.remaining = 0
			start(e, 0)
		default:
			c.now = c.now.Add(time.Duration(rng.Int64N(int64(time.Second))))
			ids := le.Expired(100)
			var want []int64
			for id, e := range model {
				if primary && !c.now.Before(e.named) {
					want = append(want, id)
					e.named = c.now.Add(expiryRetry)
				}
			}
			slices.Sort(want)
			slices.Sort(ids)
			if !slices.Equal(ids, want) {
				t.Fatalf("expired %d, want %d", ids, want)
			}
		}
	}
}

func TestRecordsAreReadBackAsWritten(t *testing.T) {
	for _, r := range []Record{{1, 1, 0}, {-1, MaxTTL, MaxTTL}, {1 << 62, 60, 7}} {
		got, err := ParseRecord(r.Append(nil))
		if err != nil || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	}
	good := Record{1, 60, 0}.Append(nil)
	for _, b := range [][]byte{nil, {2}, good[:len(good)-1], append(bytes.Clone(good), 0), bytes.Repeat([]byte{1}, recordSize), make([]byte, recordSize)} {
		if r, err := ParseRecord(b); err == nil {
			t.Errorf("%x was read as %+v", b, r)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(Record{1, 60, 0}.Append(nil))
	f.Add(Record{-1, MaxTTL, MaxTTL}.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x was read, but is written as %x", b, got)
		}
		if err := New(Options{}).Load(r); err != nil {
			t.Fatalf("%+v was read but not loaded: %v", r, err)
		}
	})
}
