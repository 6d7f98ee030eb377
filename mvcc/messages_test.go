package mvcc

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestMessagesAreWhatWasAdded(t *testing.T) {
	m, err := newMessages(messageShards * 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	rng := rand.New(rand.NewPCG(1, 2))
	message := func(rev Rev) []byte {
		r := rand.New(rand.NewPCG(uint64(rev.Main), uint64(rev.Sub)))
		b := make([]byte, r.IntN(700))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	hits := 0
	for i := range 50_000 {
		rev := Rev{Main: int64(1 + i/3), Sub: int32(i % 3)}
		m.add(rev, message(rev))
		if got, ok := m.get(rev, clone); len(message(rev)) < 490 && (!ok || !bytes.Equal(got, message(rev))) {
			t.Fatalf("%v: %d bytes, found %v; want %d", rev, len(got), ok, len(message(rev)))
		}
		old := Rev{Main: max(1, rev.Main-rng.Int64N(100)), Sub: rng.Int32N(3)}
		if old.compare(rev) > 0 {
			continue
		}
		if rng.IntN(4) == 0 {
			m.add(old, message(old))
		}
		if got, ok := m.get(old, clone); ok {
			hits++
			if !bytes.Equal(got, message(old)) {
				t.Fatalf("%v is not what was added", old)
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d hits", hits)
	}
	for i := range m.shards {
		s := &m.shards[i]
		if s.head-s.tail > uint64(len(s.ring)) || len(s.at) > len(s.ring)/messageRecordHeader {
			t.Errorf("shard %d holds %d bytes in %d, and %d versions", i, s.head-s.tail, len(s.ring), len(s.at))
		}
	}
}

func TestMessagesThatAreTooLongAreLeftOut(t *testing.T) {
	m, err := newMessages(messageShards * 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.add(Rev{Main: 7}, make([]byte, 4096))
	if _, ok := m.get(Rev{Main: 7}, clone); ok {
		t.Error("a message of a whole shard was taken in")
	}
}

// A reader that is late must not meet the end of the cache in the middle of what it does.
func TestMessagesMayBeAddedWhileTheCacheIsClosed(t *testing.T) {
	for range 100 {
		m, err := newMessages(messageShards * 4096)
		if err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		for i := range 2 {
			g.Go(func() {
				for main := range int64(200) {
					rev := Rev{Main: main, Sub: int32(i)}
					m.add(rev, make([]byte, 100))
					m.get(rev, clone)
				}
			})
		}
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		g.Wait()
		if _, ok := m.get(Rev{Main: 199}, clone); ok {
			t.Fatal("found in a cache that is closed")
		}
	}
}
