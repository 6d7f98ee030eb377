package mvcc

import "sync"

// sizes remembers what the tables take, which is costly to ask for, until the set of tables has changed.
type sizes struct {
	mu             sync.Mutex
	live, leftOver int64  // bytes of tables in use; of tables that wait for removal
	durableWritten uint64 // bytes of the batches that are in tables
}

// Size returns the bytes that the store takes on disk and in memtables, and how many of these are in use, that is
// without files that were replaced and wait for their removal.
func (db *DB) Size() (total, inUse int64) {
	s := &db.sizes
	s.mu.Lock()
	defer s.mu.Unlock()
	if db.engine.changed.Swap(false) {
		// In this order, what is flushed in between counts twice for a moment, and is not overlooked.
		if a, err := db.durable(); err == nil {
			s.durableWritten = a.written
		} else {
			db.engine.changed.Store(true)
		}
		m := db.pebble.Metrics()
		s.live, s.leftOver = 0, int64(m.Table.ObsoleteSize+m.Table.ZombieSize)
		for i := range m.Levels {
			s.live += m.Levels[i].TablesSize
		}
	}
	inUse = s.live + int64(db.written.Load()-s.durableWritten)
	return inUse + s.leftOver, inUse
}
