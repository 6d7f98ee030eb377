package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"go.etcd.io/raft/v3"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/seal"
)

// A segment is one file of the journal that has been begun: its first frame is durable.
type segment struct {
	number uint64
	path   string
	file   *seal.Segment

	// reading is held for reading while a frame is read, and for writing by whoever takes the file away.
	reading sync.RWMutex
	gone    bool
}

// readFrame returns the payload of frame f; raft.ErrCompacted if the segment was removed meanwhile.
func (s *segment) readFrame(f seal.Frame) ([]byte, error) {
	s.reading.RLock()
	defer s.reading.RUnlock()
	if s.gone {
		return nil, raft.ErrCompacted
	}
	payload, err := s.file.ReadFrame(f)
	if err != nil {
		return nil, fmt.Errorf("journal: reading entries: %w", err)
	}
	return payload, nil
}

// close waits for the last reader and keeps new ones off.
func (s *segment) close() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.gone = true
	return s.file.Close()
}

// A nextSegment is a segment that is being prepared: zeroed, synced, with a durable header and no frame.
type nextSegment struct {
	done chan struct{} // closed when file and err are set
	file *seal.Segment
	err  error
}

// firstSize returns the size of a process's first segment. It is small, so that starting is quick and a member that
// is killed over and over does not fill its disk with segments that are hardly used; each further one is four times
// as big, up to the full size.
func (j *Journal) firstSize() int64 { return max(j.segmentSize/16, minSegmentSize) }

// minSegmentSize has room for a first frame and a few more.
const minSegmentSize = 16 << 10

func (j *Journal) path(number uint64) string {
	return j.fs.PathJoin(j.dir, segmentName(number))
}

// fullSize returns the size of a full-grown segment.
func (j *Journal) fullSize() int64 { return max(j.segmentSize, minSegmentSize) }

// prepare makes the segment that follows the current one, in the background: out of the file of one that is not needed
// any more, if there is one under the active key, else a new one of size bytes.
func (j *Journal) prepare(size int64) {
	path, old := j.path(j.current().number+1), j.recycled
	j.recycled = nil
	n := &nextSegment{done: make(chan struct{})}
	j.next = n
	j.background.Go(func() {
		defer close(n.done)
		if old != nil {
			old.close()
			n.file, n.err = j.fs.ReuseSegment(old.path, path)
			if n.err == nil {
				return
			}
			if !errors.Is(n.err, seal.ErrRetiredKey) {
				j.logger.Warn("using a journal segment again", zap.String("file", old.path), zap.Error(n.err))
			}
			j.remove(old.path)
		}
		n.file, n.err = j.fs.CreateSegment(path, size)
	})
}

// take waits for the prepared segment and returns its file, or makes one if preparing failed, if the file has less
// than need bytes, or if the data key has been rotated since.
func (j *Journal) take(need int64) (*seal.Segment, error) {
	start := time.Now()
	n := j.next
	<-n.done
	segmentWait.Observe(time.Since(start).Seconds())
	path := j.path(j.current().number + 1)
	if n.err != nil {
		j.logger.Warn("preparing a journal segment", zap.String("file", path), zap.Error(n.err))
	} else if n.file.Active() && n.file.Size() >= need {
		return n.file, nil
	} else {
		n.file.Close()
		j.remove(path)
	}
	return j.fs.CreateSegment(path, max(j.firstSize(), need))
}

// roll ends the current segment and begins the next, which has room for a payload of need bytes.
func (j *Journal) roll(need int) error {
	old := j.current()
	s := &segment{number: old.number + 1, path: j.path(old.number + 1)}
	state := j.appendState(appendBegin(nil, begin{segment: s.number, predecessor: old.file.Tail()}))
	var err error
	if s.file, err = j.take(seal.SegmentSize(len(state)) + seal.SegmentSize(need)); err != nil {
		return j.fail(err)
	}
	if err := old.file.End(); err != nil {
		return j.fail(err)
	}
	return j.enter(s, state)
}

// enter makes s, whose first frame is to hold state, the current segment.
func (j *Journal) enter(s *segment, state []byte) error {
	usedBytes.Set(float64(j.size.Add(s.file.Offset())))
	j.segments = append(j.segments, s)
	segmentCount.Set(float64(len(j.segments)))
	if _, err := j.writeTo(s, state); err != nil {
		return err
	}
	j.unwritten.hardState, j.unwritten.cut = false, false
	j.prepare(min(4*s.file.Size(), j.fullSize()))
	return nil
}

// appendState appends all that the journal says except for entries. It stands in every segment's first frame, so
// nothing is lost with the segments before it.
func (j *Journal) appendState(b []byte) []byte {
	b = appendFloor(b, recordCut, j.state.table.floor)
	if hs := j.state.hardState; hs != nil {
		b = appendHardState(b, hs)
	}
	if a := j.state.anchor; a != nil {
		b = appendAnchor(b, *a)
	}
	if s := j.state.expected; s != nil {
		b = appendExpect(b, s)
	}
	return b
}

// dropSegments removes, in the background, the segments before the first that is needed. That they are not needed
// is durable.
func (j *Journal) dropSegments() {
	n := 0
	for ; j.segments[n].number < j.state.table.floor.firstSegment; n++ {
		usedBytes.Set(float64(j.size.Add(-j.segments[n].file.Offset())))
	}
	gone := append([]*segment(nil), j.segments[:n]...)
	j.segments = append([]*segment(nil), j.segments[n:]...)
	segmentCount.Set(float64(len(j.segments)))
	if j.recycled == nil {
		fits := func(s *segment) bool { return s.file.Active() && s.file.Size() == j.fullSize() }
		if i := slices.IndexFunc(gone, fits); i >= 0 {
			j.recycled = gone[i]
			gone = slices.Delete(gone, i, i+1)
		}
	}
	j.background.Go(func() {
		for _, s := range gone {
			j.discard(s)
		}
	})
}

// close waits for n and closes its file, which stays for the next process to remove.
func (n *nextSegment) close() error {
	if n == nil {
		return nil
	}
	<-n.done
	if n.err != nil {
		return nil // it was never needed
	}
	return n.file.Close()
}

// discard closes s and removes its file.
func (j *Journal) discard(s *segment) {
	if err := s.close(); err != nil {
		j.logger.Warn("closing a journal segment that is no longer needed", zap.String("file", s.path), zap.Error(err))
	}
	j.remove(s.path)
}

func (j *Journal) remove(path string) {
	if err := j.fs.Remove(path); err != nil && !oserror.IsNotExist(err) {
		j.logger.Warn("removing a journal segment that is no longer needed", zap.String("file", path), zap.Error(err))
	}
}

// Roll starts a new segment if the current one is not under the active data key, and removes what was kept to be
// used again under another: once the older segments have been cut, no byte of the journal is under a key that was
// active before.
func (j *Journal) Roll() error {
	j.write.Lock()
	defer j.write.Unlock()
	if err := j.ready(); err != nil {
		return err
	}
	if old := j.recycled; old != nil && !old.file.Active() {
		j.recycled = nil
		j.discard(old)
	}
	if j.current().file.Active() {
		return nil
	}
	return j.roll(0)
}
