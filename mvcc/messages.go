package mvcc

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// messages caches messages of versions that were written or read lately, so that most reads of a key need nothing of the
// engine. A version never changes, so nothing is ever out of date.
//
// The messages lie in memory outside of Go's heap, which would need room for garbage in proportion to it, cut into chunks
// of one size: a message is a chain of them. The cache is cut into shards, each with its lock.
type messages struct {
	mem    []byte
	shards [messageShards]messageShard
}

const (
	messageShards = 16
	// A chunk begins with the number of the next one in its chain, or among those that are free.
	chunkBytes   = 128
	chunkHeader  = 4
	chunkPayload = chunkBytes - chunkHeader
	noChunk      = ^uint32(0)
	// A message longer than this part of a shard is not cached.
	maxShardPart = 8
)

// messageShard replaces what has not been used lately by what is new, as the clock algorithm does: a hand goes around the
// entries, takes the mark of having been used from those that have it, and frees those that have not.
type messageShard struct {
	mu      sync.Mutex
	at      map[Rev]uint32 // places in entries
	entries []messageEntry
	spare   []uint32 // places of entries that hold nothing
	hand    int

	chunks []byte
	free   uint32 // the first chunk of those that were freed
	fresh  uint32 // chunks from this one on have never been used
	left   int    // chunks that are free or fresh
}

type messageEntry struct {
	rev    Rev
	first  uint32 // chunk
	length uint32 // of the message, in bytes
	held   bool   // the entry holds a message
	used   bool
}

// newMessages returns a cache of so many bytes.
func newMessages(bytes int) (*messages, error) {
	size := bytes / messageShards / chunkBytes * chunkBytes
	m := new(messages)
	if size == 0 {
		return m, nil
	}
	var err error
	if m.mem, err = unix.Mmap(-1, 0, size*messageShards, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return nil, fmt.Errorf("reserve %d bytes of memory for a cache: %w", bytes, err)
	}
	// It holds plaintext, which no core file is to have.
	if err := unix.Madvise(m.mem, unix.MADV_DONTDUMP); err != nil {
		return nil, fmt.Errorf("exclude a cache from core files: %w", err)
	}
	for i := range m.shards {
		m.shards[i] = messageShard{
			at:     map[Rev]uint32{},
			chunks: m.mem[i*size : (i+1)*size : (i+1)*size],
			free:   noChunk,
			left:   size / chunkBytes,
		}
	}
	return m, nil
}

// close empties the cache and gives its memory back.
func (m *messages) close() error {
	if m.mem == nil {
		return nil
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.at, s.chunks = nil, nil
		s.mu.Unlock()
	}
	return unix.Munmap(m.mem)
}

func (m *messages) shard(rev Rev) *messageShard {
	return &m.shards[uint64(rev.Main+int64(rev.Sub))%messageShards]
}

// get copies the message of a version into memory that room gives it, if it is in the cache.
func (m *messages) get(rev Rev, room func(int) []byte) ([]byte, bool) {
	s := m.shard(rev)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.at[rev]
	if !ok {
		return nil, false
	}
	e := &s.entries[i]
	e.used = true
	message := room(int(e.length))
	chunk := e.first
	for rest := message; len(rest) > 0; {
		c := s.chunk(chunk)
		rest = rest[copy(rest, c[chunkHeader:]):]
		chunk = binary.LittleEndian.Uint32(c)
	}
	return message, true
}

// add puts the message of a version into the cache, if it is not too long.
func (m *messages) add(rev Rev, message []byte) {
	s := m.shard(rev)
	need := chunksOf(len(message))
	s.mu.Lock()
	defer s.mu.Unlock()
	if need > len(s.chunks)/chunkBytes/maxShardPart {
		return
	}
	if _, ok := s.at[rev]; ok {
		return
	}
	for s.left < need {
		s.evict()
	}
	e := messageEntry{rev: rev, first: noChunk, length: uint32(len(message)), held: true}
	s.left -= need
	// From the last chunk to the first, so that each can name the next.
	for i := need - 1; i >= 0; i-- {
		n := s.take()
		c := s.chunk(n)
		binary.LittleEndian.PutUint32(c, e.first)
		copy(c[chunkHeader:], message[i*chunkPayload:])
		e.first = n
	}
	if n := len(s.spare); n > 0 {
		place := s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.entries[place], s.at[rev] = e, place
		return
	}
	s.at[rev] = uint32(len(s.entries))
	s.entries = append(s.entries, e)
}

// remove forgets a version.
func (m *messages) remove(rev Rev) {
	s := m.shard(rev)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.at[rev]; ok {
		s.drop(i)
	}
}

func chunksOf(length int) int { return (length + chunkPayload - 1) / chunkPayload }

func (s *messageShard) chunk(n uint32) []byte { return s.chunks[int(n)*chunkBytes:][:chunkBytes] }

// take returns a chunk that is not in use; there is one.
func (s *messageShard) take() uint32 {
	if s.free == noChunk {
		s.fresh++
		return s.fresh - 1
	}
	n := s.free
	s.free = binary.LittleEndian.Uint32(s.chunk(n))
	return n
}

// evict frees one message; there is one.
func (s *messageShard) evict() {
	for {
		s.hand = (s.hand + 1) % len(s.entries)
		switch e := &s.entries[s.hand]; {
		case !e.held:
		case e.used:
			e.used = false
		default:
			s.drop(uint32(s.hand))
			return
		}
	}
}

// drop frees the message of an entry.
func (s *messageShard) drop(place uint32) {
	e := &s.entries[place]
	delete(s.at, e.rev)
	e.held = false
	s.spare = append(s.spare, place)
	s.left += chunksOf(int(e.length))
	for n := e.first; n != noChunk; {
		c := s.chunk(n)
		next := binary.LittleEndian.Uint32(c)
		binary.LittleEndian.PutUint32(c, s.free)
		s.free, n = n, next
	}
}
