package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/seal"
)

// Options says where a journal lives and how it is laid out.
type Options struct {
	FS          *seal.FS    // every file is read and written through it
	Dir         string      // directory of the segments; created if missing
	SegmentSize int64       // bytes of a full-grown segment; 0 means DefaultSegmentSize
	Logger      *zap.Logger // nil means none
}

// DefaultSegmentSize is the size of a full-grown segment in bytes.
const DefaultSegmentSize = 12 << 20

// cacheBytes bounds the entries kept in memory: enough for what raft reads again right after it was appended and
// for followers that lag a little.
const cacheBytes = 16 << 20

// maxFrame bounds the data of the entries in one frame, unless one entry alone is larger. It bounds the memory that
// sealing and reading a frame take; raft sends entries in messages of far less.
const maxFrame = 8 << 20

// MaxEntry is the size of the largest entry that the journal takes, in bytes of data.
const MaxEntry = seal.MaxPayload - 256

// maxKeptPayload bounds the memory that is kept for the next frame's payload.
const maxKeptPayload = 4 << 20

// snapshot names the last entry that a leader's snapshot stands for.
type snapshot struct{ index, term uint64 }

// An Anchor ties the rest of the data directory to the journal: what is older than the newest anchor is an old
// copy that was put back, and is refused at start before Pebble is opened.
type Anchor struct {
	Manifest          string    // base name of Pebble's MANIFEST
	Tail              seal.Tail // its frames and last tag when the anchor was taken
	DurableApplied    uint64    // raft index up to which the store had been flushed
	KeyringGeneration uint64
}

// A Journal is the durable raft log of one member. Its methods may be called concurrently.
type Journal struct {
	fs          *seal.FS
	dir         string
	segmentSize int64
	logger      *zap.Logger

	// write is held by whoever changes the journal, across the I/O that this takes.
	write     sync.Mutex
	failed    error      // set once something could not be written: nothing is written any more
	found     *chain     // what Open found; nil once something was written
	segments  []*segment // those that are needed, ascending; the last one is written to
	next      *nextSegment
	recycled  *segment // no longer needed, kept to be used again
	unwritten struct { // goes out with the next frame
		hardState, cut bool
	}
	payload []byte // of the frame being written; its memory is used again

	background sync.WaitGroup // goroutines that prepare and remove segments

	// mu guards what readers see. It changes only once it is durable, and only under write. mu is never held
	// across I/O.
	mu    sync.RWMutex
	state state
	cache cache

	size atomic.Int64 // bytes in use
}

// state is what the journal says.
type state struct {
	table     table
	hardState *raftpb.HardState // nil if there never was one
	anchor    *Anchor           // nil if there never was one
	expected  *snapshot         // set between Expect and Reset
}

var errClosed = errors.New("journal: closed")

// Append makes entries and hs (either may be nil) durable. The indexes of entries must follow each other; they replace
// what the log holds from the first one's index on. The journal keeps entries and hs, which must not be changed
// afterwards. All goes into one frame and takes one sync, unless entries are larger than maxFrame.
//
// With sync false, and if nothing but the commit index of hs is new, nothing is written: the commit index goes out
// with the next frame, and an earlier one may be found after a crash, which raft allows.
//
// A write or sync that failed is not tried again, because what the disk then holds is unknown: every later call
// returns the same error, and the process has to end.
func (j *Journal) Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error {
	j.write.Lock()
	defer j.write.Unlock()
	if j.failed != nil {
		return j.failed
	}
	for i, e := range entries {
		if want := entries[0].GetIndex() + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("journal: appending entry %d where %d belongs", e.GetIndex(), want)
		}
		if len(e.Data) > MaxEntry {
			return fmt.Errorf("journal: appending entry %d of %d bytes; the largest may have %d", e.GetIndex(), len(e.Data), MaxEntry)
		}
	}
	t := &j.state.table
	if len(entries) > 0 && entries[0].GetIndex() > t.last+1 {
		return fmt.Errorf("journal: appending entry %d, but the last one is %d", entries[0].GetIndex(), t.last)
	}
	for len(entries) > 0 && entries[0].GetIndex() <= t.floor.index {
		entries = entries[1:]
	}
	for n := frameful(entries); n < len(entries); n = frameful(entries) {
		// After a crash in between this looks as if raft had asked for less.
		part := hs
		if last := entries[n-1].GetIndex(); hs.GetCommit() > last {
			part = &raftpb.HardState{Term: hs.Term, Vote: hs.Vote, Commit: &last}
		}
		if err := j.append(entries[:n], part, true); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return j.append(entries, hs, sync)
}

// frameful returns how many entries from the front of ents go into one frame.
func frameful(ents []*raftpb.Entry) int {
	size := 0
	for i, e := range ents {
		if size += memory(e); size > maxFrame && i > 0 {
			return i
		}
	}
	return len(ents)
}

// append writes one frame, if anything is to be written.
func (j *Journal) append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error {
	old := j.state.hardState
	changed := hs != nil && !equal(hs, old)
	if len(entries) == 0 && !(sync && (changed || j.unwritten.hardState)) &&
		(!changed || hs.GetTerm() == old.GetTerm() && hs.GetVote() == old.GetVote()) {
		if changed {
			j.unwritten.hardState = true
			j.publish(func() { j.state.hardState = hs })
		}
		return nil
	}
	if err := j.ready(); err != nil {
		return err
	}
	if !changed {
		hs = old
	}
	b := j.begin()
	if changed || j.unwritten.hardState {
		b = appendHardState(b, hs)
	}
	var runs []run
	if len(entries) > 0 {
		b = appendEntries(b, entries)
		for _, e := range entries {
			runs = appendRun(runs, e.GetIndex(), e.GetTerm())
		}
	}
	seg, frame, err := j.writeFrame(b)
	if err != nil {
		return err
	}
	j.publish(func() {
		j.state.hardState = hs
		if len(entries) > 0 {
			ref := frameRef{first: entries[0].GetIndex(), seg: seg, frame: frame}
			j.state.table.add(ref, entries[len(entries)-1].GetIndex(), runs)
			j.cache.add(entries)
		}
	})
	j.unwritten.hardState = false
	return nil
}

func equal(a, b *raftpb.HardState) bool {
	return a.GetTerm() == b.GetTerm() && a.GetVote() == b.GetVote() && a.GetCommit() == b.GetCommit()
}

// WriteAnchor makes a durable.
func (j *Journal) WriteAnchor(a Anchor) error {
	j.write.Lock()
	defer j.write.Unlock()
	if err := j.ready(); err != nil {
		return err
	}
	if _, _, err := j.writeFrame(appendAnchor(j.begin(), a)); err != nil {
		return err
	}
	j.publish(func() { j.state.anchor = &a })
	return nil
}

// Cut makes index+1 the first index, keeps the term of entry index, and removes the segments all of whose entries
// are then gone. The newest anchor must name index, or a later one, as durable in the store.
func (j *Journal) Cut(index uint64) error {
	j.write.Lock()
	defer j.write.Unlock()
	if err := j.ready(); err != nil {
		return err
	}
	t := &j.state.table
	if index <= t.floor.index {
		return nil
	}
	if a := j.state.anchor; a == nil || a.DurableApplied < index {
		return fmt.Errorf("journal: cutting up to index %d, which no anchor names as durable in the store", index)
	}
	term, err := t.term(index)
	if err != nil {
		return fmt.Errorf("journal: cutting up to index %d, but the last entry is %d: %w", index, t.last, err)
	}
	f := floor{index: index, term: term, firstSegment: j.current().number}
	if index < t.last {
		f.firstSegment = t.refs[t.find(index+1)].seg.number
	}
	if f.firstSegment == t.floor.firstSegment {
		// No file goes, so nothing needs to be written now: after a crash the log may begin earlier.
		j.publish(func() { t.raise(f); j.cache.raise(index) })
		j.unwritten.cut = true
		return nil
	}
	if _, _, err := j.writeFrame(appendFloor(j.begin(), recordCut, f)); err != nil {
		return err
	}
	j.publish(func() { t.raise(f); j.cache.raise(index) })
	j.dropSegments()
	return nil
}

// Expect makes it durable that a leader's snapshot, which stands for the log up to index, is about to be installed in
// the store. If the process ends before Reset, Expected tells the next one why its store may be ahead of its log.
func (j *Journal) Expect(index, term uint64) error {
	j.write.Lock()
	defer j.write.Unlock()
	if err := j.ready(); err != nil {
		return err
	}
	s := &snapshot{index: index, term: term}
	if _, _, err := j.writeFrame(appendExpect(j.begin(), s)); err != nil {
		return err
	}
	j.publish(func() { j.state.expected = s })
	return nil
}

// Reset drops all entries after a leader's snapshot was installed and is durable in the store: the log begins
// behind index. The hard state's commit index and term are raised to the snapshot's if they are below.
func (j *Journal) Reset(index, term uint64) error {
	j.write.Lock()
	defer j.write.Unlock()
	if err := j.ready(); err != nil {
		return err
	}
	t := &j.state.table
	if index < t.floor.index {
		return fmt.Errorf("journal: resetting to a snapshot at index %d, but the log begins behind %d", index, t.floor.index)
	}
	old := j.state.hardState
	hs := &raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(max(index, old.GetCommit()))}
	if old.GetTerm() >= term {
		*hs.Term, *hs.Vote = old.GetTerm(), old.GetVote()
	}
	f := floor{index: index, term: term, firstSegment: j.current().number}
	if _, _, err := j.writeFrame(appendFloor(appendHardState(j.begin(), hs), recordReset, f)); err != nil {
		return err
	}
	j.publish(func() {
		t.reset(f)
		j.cache.truncate(0)
		j.state.hardState, j.state.expected = hs, nil
	})
	j.unwritten.hardState = false
	j.dropSegments()
	return nil
}

// Close writes what is still to be written and closes the files. It waits for background work.
func (j *Journal) Close() error {
	j.write.Lock()
	defer j.write.Unlock()
	if j.failed == errClosed {
		return nil
	}
	err := j.failed
	if err == nil && j.unwritten.hardState {
		if err = j.ready(); err == nil {
			_, _, err = j.writeFrame(appendHardState(j.begin(), j.state.hardState))
		}
	}
	j.background.Wait()
	for _, s := range j.segments {
		err = errors.Join(err, s.close())
	}
	if j.recycled != nil {
		err = errors.Join(err, j.recycled.close())
	}
	err = errors.Join(err, j.next.close())
	j.failed = errClosed
	return err
}

// Size returns the bytes in use: headers and frames of all segments that are needed.
func (j *Journal) Size() int64 { return j.size.Load() }

// begin returns an empty payload, or one that holds what waited for the next frame.
func (j *Journal) begin() []byte {
	b := j.payload[:0]
	if j.unwritten.cut {
		b = appendFloor(b, recordCut, j.state.table.floor)
	}
	return b
}

// writeFrame writes payload as one frame and syncs it, in a new segment if it does not fit into the current one.
// Its caller publishes what the frame says.
func (j *Journal) writeFrame(payload []byte) (*segment, seal.Frame, error) {
	if cap(payload) <= maxKeptPayload {
		j.payload = payload
	}
	if !j.current().file.Fits(len(payload)) {
		if err := j.roll(len(payload)); err != nil {
			return nil, seal.Frame{}, err
		}
	}
	s := j.current()
	frame, err := j.writeTo(s, payload)
	if err == nil {
		j.unwritten.cut = false
	}
	return s, frame, err
}

// writeTo appends one synced frame to s.
func (j *Journal) writeTo(s *segment, payload []byte) (seal.Frame, error) {
	frame, err := s.file.Append(payload)
	if err != nil {
		return frame, j.fail(err)
	}
	start := time.Now()
	if err := s.file.Sync(); err != nil {
		return frame, j.fail(err)
	}
	syncSeconds.Observe(time.Since(start).Seconds())
	n := s.file.Offset() - frame.Offset
	writtenBytes.Add(float64(n))
	usedBytes.Set(float64(j.size.Add(n)))
	return frame, nil
}

// fail makes the journal refuse everything from now on, and returns the error that says why. err names the file.
func (j *Journal) fail(err error) error {
	j.failed = fmt.Errorf("journal: %w; nothing more is written, since what the disk holds is now unknown: "+
		"check the disk, then start again", err)
	j.logger.Error("the journal failed", zap.Error(j.failed))
	return j.failed
}

// current returns the segment that is written to.
func (j *Journal) current() *segment { return j.segments[len(j.segments)-1] }

// publish changes what readers see.
func (j *Journal) publish(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
}
