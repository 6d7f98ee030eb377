package mvcc

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
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
		if got, ok := m.get(rev, newBytes); len(message(rev)) < 490 && (!ok || !bytes.Equal(got, message(rev))) {
			t.Fatalf("%v: %d bytes, found %v; want %d", rev, len(got), ok, len(message(rev)))
		}
		old := Rev{Main: max(1, rev.Main-rng.Int64N(100)), Sub: rng.Int32N(3)}
		if old.compare(rev) > 0 {
			continue
		}
		if rng.IntN(4) == 0 {
			m.add(old, message(old))
		}
		if got, ok := m.get(old, newBytes); ok {
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
		held := 0
		for _, e := range s.entries {
			if e.held {
				held += chunksOf(int(e.length))
			}
		}
		free := 0
		for n := s.free; n != noChunk; n = binary.LittleEndian.Uint32(s.chunk(n)) {
			free++
		}
		all := len(s.chunks) / chunkBytes
		if free += all - int(s.fresh); held+free != all || s.left != free || len(s.at)+len(s.spare) != len(s.entries) {
			t.Errorf("shard %d of %d chunks: %d are held, %d free, %d said to be free; %d versions, %d of %d entries to spare",
				i, all, held, free, s.left, len(s.at), len(s.spare), len(s.entries))
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
	if _, ok := m.get(Rev{Main: 7}, newBytes); ok {
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
					m.get(rev, newBytes)
				}
			})
		}
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		g.Wait()
		if _, ok := m.get(Rev{Main: 199}, newBytes); ok {
			t.Fatal("found in a cache that is closed")
		}
	}
}

func TestMessagesThatAreReadOutliveThoseThatAreNot(t *testing.T) {
	m, err := newMessages(messageShards * 64 * chunkBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	read := Rev{Main: messageShards}
	m.add(read, make([]byte, chunkPayload))
	for i := range int64(1000) {
		if _, ok := m.get(read, newBytes); !ok {
			t.Fatalf("gone after %d others", i)
		}
		other := Rev{Main: (2 + i) * messageShards}
		m.add(other, make([]byte, chunkPayload))
		if i%2 == 0 {
			m.remove(other)
			if _, ok := m.get(other, newBytes); ok {
				t.Fatal("found although it was removed")
			}
		}
	}
}

func TestReplacedVersionsLeaveTheCache(t *testing.T) {
	db, err := Open(Options{FS: vfs.NewMem(), Dir: "store"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range 5 * keptReplaced {
		b := db.Begin()
		txn := b.Txn()
		txn.Put([]byte("key"), []byte("value"), 0)
		txn.End()
		if _, err := b.Commit(uint64(i+1), 1); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	for i := range db.messages.shards {
		held += len(db.messages.shards[i].at)
	}
	if held > 2*keptReplaced+1 {
		t.Errorf("%d versions of one key are in the cache", held)
	}
}
