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
// It is a ring of records in memory outside of Go's heap, which would need room for garbage in proportion to it. What is
// oldest in the ring is overwritten. The ring is cut into shards, each with its lock.
type messages struct {
	mem    []byte
	shards [messageShards]messageShard
}

const (
	messageShards       = 16
	messageRecordHeader = 16 // revision (12 bytes), length of the message (4)
	// A message longer than this part of a shard is not cached.
	maxShardPart = 8
)

type messageShard struct {
	mu   sync.Mutex
	at   map[Rev]uint64 // position of the record
	ring []byte
	// Positions count all bytes ever written, so that the offset in the ring is the rest of dividing by its length. No
	// record crosses the end of the ring.
	tail, head uint64
}

// newMessages returns a cache of so many bytes.
func newMessages(bytes int) (*messages, error) {
	size := bytes / messageShards
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
		m.shards[i] = messageShard{at: map[Rev]uint64{}, ring: m.mem[i*size : (i+1)*size : (i+1)*size]}
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
		s.at, s.ring = nil, nil
		s.mu.Unlock()
	}
	return unix.Munmap(m.mem)
}

func (m *messages) shard(rev Rev) *messageShard {
	return &m.shards[uint64(rev.Main+int64(rev.Sub))%messageShards]
}

// get returns the message of a version as keep has copied it, if it is in the cache.
func (m *messages) get(rev Rev, keep func([]byte) []byte) ([]byte, bool) {
	s := m.shard(rev)
	s.mu.Lock()
	defer s.mu.Unlock()
	pos, ok := s.at[rev]
	if !ok {
		return nil, false
	}
	record := s.ring[pos%uint64(len(s.ring)):]
	n := binary.LittleEndian.Uint32(record[12:])
	return keep(record[messageRecordHeader:][:n]), true
}

// add puts the message of a version into the cache, if it is not too long.
func (m *messages) add(rev Rev, message []byte) {
	s := m.shard(rev)
	size := messageRecordHeader + len(message)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.at[rev]; ok || size > len(s.ring)/maxShardPart { // of which nothing is left once closed
		return
	}
	length := uint64(len(s.ring))
	if rest := length - s.head%length; rest < uint64(size) {
		s.free(s.head + rest)
		// What is left at the end is a record of no version, or too short for a header.
		if rest >= messageRecordHeader {
			s.write(Rev{}, int(rest)-messageRecordHeader)
		}
		s.head += rest
	}
	s.free(s.head + uint64(size))
	copy(s.write(rev, len(message)), message)
	s.at[rev] = s.head
	s.head += uint64(size)
}

// write writes a record's header at the head and returns the place of the message.
func (s *messageShard) write(rev Rev, n int) []byte {
	record := s.ring[s.head%uint64(len(s.ring)):]
	binary.LittleEndian.PutUint64(record, uint64(rev.Main))
	binary.LittleEndian.PutUint32(record[8:], uint32(rev.Sub))
	binary.LittleEndian.PutUint32(record[12:], uint32(n))
	return record[messageRecordHeader:][:n]
}

// free forgets the oldest records until the head may move up to position to.
func (s *messageShard) free(to uint64) {
	length := uint64(len(s.ring))
	for to > s.tail+length {
		off := s.tail % length
		if length-off < messageRecordHeader {
			s.tail += length - off
			continue
		}
		record := s.ring[off:]
		rev := Rev{Main: int64(binary.LittleEndian.Uint64(record)), Sub: int32(binary.LittleEndian.Uint32(record[8:]))}
		if s.at[rev] == s.tail {
			delete(s.at, rev)
		}
		s.tail += messageRecordHeader + uint64(binary.LittleEndian.Uint32(record[12:]))
	}
}
