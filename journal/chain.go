package journal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"

	"github.com/cofferkv/coffer/seal"
)

// segmentSuffix makes a file a journal segment to package seal.
const segmentSuffix = ".journal"

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

// segmentNumber is the inverse of segmentName.
func segmentNumber(name string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 16, 64)
	return n, err == nil && name == segmentName(n)
}

// A chain is what a journal's files say. It is read and checked as a whole before anything is changed.
type chain struct {
	fs       *seal.FS
	dir      string
	segments []*scanned // from the first that is needed to the last that was begun
	unbegun  bool       // a file follows the last segment that was begun; it holds no frame
	older    []uint64   // files of segments that are no longer needed
	state    state
}

// A scanned segment is authentic in itself: it opens, frame by frame, up to its end.
type scanned struct {
	*segment
	begin begin
	end   seal.SegmentEnd
	steps []step
}

// A step is a record and the frame it stands in. Of entries it has their place and terms, not their data.
type step struct {
	record
	frame seal.Frame
	runs  []run
}

// readChain reads the journal in dir. It writes nothing.
func readChain(fs *seal.FS, dir string) (*chain, error) {
	c := &chain{fs: fs, dir: dir, state: state{table: table{floor: floor{firstSegment: 1}}}}
	names, err := fs.List(dir)
	if err != nil && !oserror.IsNotExist(err) {
		return nil, fmt.Errorf("journal: listing %s: %w", dir, err)
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	if len(numbers) == 0 {
		return c, nil
	}
	last, err := c.scanLast(numbers[len(numbers)-1])
	if err != nil || last == nil {
		return c, err
	}
	c.state.table.floor = last.floor()
	first := c.state.table.floor.firstSegment
	if first == 0 || first > last.number {
		return nil, c.altered(last, 0, "it says that segment %d is the first", first)
	}
	for _, n := range numbers {
		if n < first {
			c.older = append(c.older, n)
		}
	}
	for n := first; n < last.number; n++ {
		s, err := c.scan(n)
		if err != nil {
			return nil, err
		}
		c.segments = append(c.segments, s)
	}
	c.segments = append(c.segments, last)
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, c.replay()
}

// last returns the last segment that was begun; nil if none was.
func (c *chain) last() *scanned {
	if len(c.segments) == 0 {
		return nil
	}
	return c.segments[len(c.segments)-1]
}

func (c *chain) path(number uint64) string { return c.fs.PathJoin(c.dir, segmentName(number)) }

// scanLast scans the last segment that was begun, given the highest number that a file has; nil if no segment was.
// Behind it there may be one that was prepared.
func (c *chain) scanLast(number uint64) (*scanned, error) {
	s, err := c.scan(number)
	if err != nil || s.end.Tail.Frames > 0 {
		return s, err
	}
	c.unbegun = true
	if number == 1 {
		return nil, nil
	}
	s, err = c.scan(number - 1)
	if err == nil && s.end.Tail.Frames == 0 {
		err = c.altered(s, 0, "it is empty, but %s follows it", segmentName(number))
	}
	return s, err
}

// scan reads the segment of the given number and opens each of its frames.
func (c *chain) scan(number uint64) (*scanned, error) {
	s := &scanned{segment: &segment{number: number, path: c.path(number)}}
	end, err := c.fs.ReadSegment(s.path, func(f seal.Frame, payload []byte) error {
		err := visitRecords(payload, func(r record) error {
			st := step{record: r, frame: f}
			switch {
			case (r.begin != nil) != (len(s.steps) == 0):
				return fmt.Errorf("%w: a segment begins with its number, and only there", errMalformed)
			case r.begin != nil:
				s.begin = *r.begin
			case r.entries != nil:
				st.runs = r.entries.terms()
				st.entries = &entries{first: r.entries.first, n: r.entries.n}
			}
			s.steps = append(s.steps, st)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s at offset %d: %w", s.path, f.Offset, err)
		}
		return nil
	})
	switch {
	case oserror.IsNotExist(err):
		return nil, c.altered(s, 0, "it is missing; there are later segments")
	case err != nil:
		return nil, fmt.Errorf("journal: %w", err)
	}
	s.end = end
	return s, nil
}

// floor returns the last floor that s names.
func (s *scanned) floor() floor {
	var f floor
	for _, st := range s.steps {
		switch {
		case st.cut != nil:
			f = *st.cut
		case st.reset != nil:
			f = *st.reset
		}
	}
	return f
}

// check holds the segments against each other.
func (c *chain) check() error {
	for i, s := range c.segments {
		if s.begin.segment != s.number {
			return c.altered(s, 0, "it says that it is segment %d", s.begin.segment)
		}
		last := i == len(c.segments)-1
		switch {
		case i > 0 && s.begin.predecessor != c.segments[i-1].end.Tail:
			before := c.segments[i-1]
			return c.altered(before, before.end.Offset, "it ends after %d frames; segment %d was begun when it ended after %d, or otherwise",
				before.end.Tail.Frames, s.number, s.begin.predecessor.Frames)
		case s.number == 1 && s.begin.predecessor != seal.Tail{}:
			return c.altered(s, 0, "it follows another segment")
		case !last && !s.end.Ended:
			return c.altered(s, s.end.Offset, "its end mark is missing, although segment %d follows it", s.number+1)
		case last && s.end.Ended && !c.unbegun:
			return c.altered(s, s.end.Offset, "%s, which follows it, is missing", segmentName(s.number+1))
		}
	}
	return nil
}

func (c *chain) altered(s *scanned, off int64, format string, args ...any) error {
	return fmt.Errorf("journal: %w", &seal.Error{File: s.path, Offset: off, Reason: fmt.Sprintf(format, args...)})
}

// replay works out the state. Its floor is already the final one, so entries that were cut later are left out.
func (c *chain) replay() error {
	st := &c.state
	st.table.last = st.table.floor.index
	// A segment that was cut may have held entries between those in the table and those of a later step. Then all
	// of that later step has been replaced since, or else entries are missing.
	var detached *step
	var at *scanned
	for _, s := range c.segments {
		for i := range s.steps {
			switch r := &s.steps[i]; {
			case r.entries != nil && r.entries.first > st.table.last+1:
				detached, at = r, s
			case r.entries != nil:
				st.table.add(frameRef{first: r.entries.first, seg: s.segment, frame: r.frame}, r.entries.last(), r.runs)
				detached = nil
			case r.hardState != nil:
				st.hardState = r.hardState
			case r.anchor != nil:
				st.anchor = r.anchor
			case r.expect != nil:
				st.expected = r.expect
			case r.reset != nil:
				st.table.reset(st.table.floor)
				st.expected, detached = nil, nil
			}
		}
	}
	if detached != nil {
		return c.altered(at, detached.frame.Offset, "entry %d follows entry %d", detached.entries.first, st.table.last)
	}
	return nil
}
