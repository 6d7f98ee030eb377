package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"go.uber.org/zap"
)

// Open reads and checks the journal in o.Dir, or begins one if the directory is missing or holds none. It goes on in
// a new segment whatever the end of the last one looks like: no process ever appends to another one's segment.
//
// A last frame that a crash has torn was never acknowledged and is left out. Anything else that is not as it was
// written, be it a byte, a frame or a file, is an error that names the file, and nothing is changed.
func Open(o Options) (*Journal, error) {
	j := &Journal{fs: o.FS, dir: o.Dir, segmentSize: o.SegmentSize, logger: o.Logger, cache: cache{bound: cacheBytes}}
	if j.segmentSize == 0 {
		j.segmentSize = DefaultSegmentSize
	}
	if j.logger == nil {
		j.logger = zap.NewNop()
	}
	if err := j.makeDir(); err != nil {
		return nil, fmt.Errorf("journal: creating %s: %w", j.dir, err)
	}
	c, err := readChain(j.fs, j.dir)
	if err != nil {
		return nil, err
	}
	j.state = c.state
	if err := j.resume(c); err != nil {
		j.background.Wait()
		for _, s := range j.segments {
			s.file.Close()
		}
		return nil, err
	}
	return j, nil
}

// makeDir creates the directory durably, if it is missing.
func (j *Journal) makeDir() error {
	if _, err := j.fs.Stat(j.dir); err == nil || !oserror.IsNotExist(err) {
		return err
	}
	if err := j.fs.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	parent, err := j.fs.OpenDir(j.fs.PathDir(j.dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// resume removes what is left over, ends the last segment of c and begins a new one.
func (j *Journal) resume(c *chain) error {
	for _, n := range c.older {
		j.remove(c.path(n))
	}
	if err := j.fs.RemoveUnfinished(j.dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	s := &segment{number: 1}
	b := begin{segment: 1}
	var last *scanned
	if n := len(c.segments); n > 0 {
		last = c.segments[n-1]
		s.number = last.number + 1
		b = begin{segment: s.number, predecessor: last.end.Tail}
	}
	s.path = j.path(s.number)
	if c.unbegun && (last == nil || !last.end.Ended) {
		j.remove(s.path) // gives back its space first
	}
	var err error
	if s.file, err = j.fs.CreateSegment(s.path, j.firstSize()); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.attach(c); err != nil {
		s.file.Close()
		return err
	}
	if last != nil {
		if last.end.Torn {
			tornTails.Inc()
			j.logger.Info("the last frame of the journal was torn by a crash; it was never acknowledged and is left out",
				zap.String("file", last.path), zap.Int64("offset", last.end.Offset))
		}
		// If it has ended already this only syncs it: the process before may have been killed before it did.
		if err := last.file.End(); err != nil {
			s.file.Close()
			return fmt.Errorf("journal: %w", err)
		}
	}
	return j.enter(s, j.appendState(appendBegin(nil, b)))
}

// attach opens the segments of c for reading.
func (j *Journal) attach(c *chain) error {
	for _, s := range c.segments {
		var err error
		if s.file, err = j.fs.OpenSegment(s.path, s.end); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.segments = append(j.segments, s.segment)
		j.size.Add(s.end.Offset)
	}
	return nil
}
