package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"go.uber.org/zap"
)

// Open reads and checks the journal in o.Dir; if the directory is missing or holds none, the journal is a new one. It
// writes nothing: that begins with the first call that has something to write, so whoever opens the journal can still
// decide that it does not belong to the rest of the data directory, and leave everything as it was.
//
// A last frame that a crash has torn was never acknowledged and is left out. Anything else that is not as it was
// written, be it a byte, a frame or a file, is an error that names the file.
func Open(o Options) (*Journal, error) {
	j := &Journal{fs: o.FS, dir: o.Dir, segmentSize: o.SegmentSize, logger: o.Logger, cache: cache{bound: cacheBytes}}
	if j.segmentSize == 0 {
		j.segmentSize = DefaultSegmentSize
	}
	if j.logger == nil {
		j.logger = zap.NewNop()
	}
	c, err := readChain(j.fs, j.dir)
	if err != nil {
		return nil, err
	}
	j.found, j.state = c, c.state
	if err := j.attach(); err != nil {
		for _, s := range j.segments {
			s.file.Close()
		}
		return nil, err
	}
	return j, nil
}

// attach opens the segments that were found, for reading.
func (j *Journal) attach() error {
	for _, s := range j.found.segments {
		var err error
		if s.file, err = j.fs.OpenSegment(s.path, s.end); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.segments = append(j.segments, s.segment)
		j.size.Add(s.end.Offset)
	}
	segmentCount.Set(float64(len(j.segments)))
	usedBytes.Set(float64(j.size.Load()))
	last := j.found.last()
	if last == nil {
		return nil
	}
	if last.end.Torn {
		tornTails.Inc()
		j.logger.Info("the last frame of the journal was torn by a crash; it was never acknowledged and is left out",
			zap.String("file", last.path), zap.Int64("offset", last.end.Offset))
	}
	// What was read may still be in memory only, if the process before was killed. From now on it counts as durable.
	if err := last.file.Sync(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// ready makes the journal fit to be written to. It returns the error that made it unfit for ever, if there is one.
func (j *Journal) ready() error {
	if j.failed != nil || j.found == nil {
		return j.failed
	}
	if err := j.resume(j.found); err != nil && j.failed == nil {
		j.fail(err)
	}
	j.found = nil
	return j.failed
}

// resume ends the last segment of c, whatever its end looks like, and begins a new one: no process ever appends to
// another one's segment. It also removes what is left over.
func (j *Journal) resume(c *chain) error {
	if err := j.makeDir(); err != nil {
		return fmt.Errorf("create directory %s: %w", j.dir, err)
	}
	for _, n := range c.older {
		j.remove(c.path(n))
	}
	if err := j.fs.RemoveUnfinished(j.dir); err != nil {
		return err
	}
	s, b, last := &segment{}, begin{segment: 1}, c.last()
	if last != nil {
		b = begin{segment: last.number + 1, predecessor: last.end.Tail}
	}
	s.number, s.path = b.segment, j.path(b.segment)
	if c.unbegun && (last == nil || !last.end.Ended) {
		j.remove(s.path) // gives back its space first
	}
	var err error
	if s.file, err = j.fs.CreateSegment(s.path, j.firstSize()); err != nil {
		return err
	}
	if last != nil {
		// If it has ended already this only syncs it: the process before may have been killed before it did.
		if err := last.file.End(); err != nil {
			s.file.Close()
			return err
		}
	}
	return j.enter(s, j.appendState(appendBegin(nil, b)))
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
