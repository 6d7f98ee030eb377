package server

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/seal"
)

// firstAnchor makes the journal's first frame, before there is a database: from then on a database without a journal is
// one whose journal was removed.
func (s *Server) firstAnchor() error {
	if _, ok := s.journal.Anchor(); ok || s.journal.LastIndex() > 0 || s.journal.HardState() != nil {
		return nil
	}
	db := s.dir.file(dbName)
	if full, err := holdsFiles(db); err != nil {
		return err
	} else if full {
		return fmt.Errorf("%s has a database, but the journal in %s has nothing in it: it was removed or replaced. "+
			"Put the whole directory back from a copy, or restore a snapshot into another directory. Nothing has been changed", db, s.dir.journal)
	}
	return s.journal.WriteAnchor(journal.Anchor{KeyringGeneration: s.keyring.Generation()})
}

// checkAnchor compares keyring and database with what the journal recorded about them, before the database is opened.
//
// Opened first, Pebble would take an older MANIFEST for the truth and delete the tables it does not list.
func (s *Server) checkAnchor() error {
	a, ok := s.journal.Anchor()
	if !ok {
		return nil
	}
	if err := s.keyring.CheckGeneration(a.KeyringGeneration); err != nil {
		return err
	}
	if a.Manifest == "" {
		return nil // the first anchor: there was no database
	}
	dir := s.dir.file(dbName)
	current, err := currentManifest(s.fs.List, dir)
	if err != nil {
		return err
	}
	const remedy = "an older copy was put back, or files were removed. Put back journal, database and keyring from the same moment, or restore a snapshot into another directory. Nothing has been changed"
	if current == "" {
		return fmt.Errorf("%s has no database, but the journal in %s says that there is one: %s", dir, s.dir.journal, remedy)
	}
	anchored, err := manifestNumber(a.Manifest)
	if err != nil {
		return err
	}
	now, err := manifestNumber(current)
	if err != nil {
		return err
	}
	switch {
	case now < anchored:
		return fmt.Errorf("the database in %s is that of %s, but the journal in %s has recorded %s: %s", dir, current, s.dir.journal, a.Manifest, remedy)
	case now == anchored:
		if err := s.fs.CheckTail(s.fs.PathJoin(dir, current), a.Tail); err != nil {
			return err
		}
	}
	// A newer MANIFEST begins with all that the recorded one had, unless it was cut; and it may have been begun just
	// before a crash. Whichever it is, if the journal is older than the database, the database has applied what the
	// journal does not have yet.
	applied, err := mvcc.DurableAppliedIn(mvcc.Options{FS: s.fs, Dir: dir, Logger: s.log})
	if err != nil {
		return err
	}
	if applied < a.DurableApplied {
		return fmt.Errorf("the database in %s has applied entry %d, but the journal in %s has recorded that it had applied entry %d: %s", dir, applied, s.dir.journal, a.DurableApplied, remedy)
	}
	if last := s.journal.LastIndex(); applied > last {
		return fmt.Errorf("the database in %s has applied entry %d, but the journal in %s ends with entry %d: %s", dir, applied, s.dir.journal, last, remedy)
	}
	return nil
}

// anchorOf describes a finished database that is not open, in which the given index is applied.
func anchorOf(fs *seal.FS, dir string, applied, generation uint64) (journal.Anchor, error) {
	name, err := currentManifest(fs.List, dir)
	if err != nil {
		return journal.Anchor{}, err
	}
	tail, err := fs.LogTail(fs.PathJoin(dir, name))
	return journal.Anchor{Manifest: name, Tail: tail, DurableApplied: applied, KeyringGeneration: generation}, err
}

// currentManifest returns the name of the MANIFEST that Pebble would open: the one that its newest marker names.
// Markers are called marker.manifest.ITERATION.MANIFEST-NUMBER.
func currentManifest(list func(string) ([]string, error), dir string) (string, error) {
	names, err := list(dir)
	if oserror.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list the database's files: %w", err)
	}
	newest, current := uint64(0), ""
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, "marker.manifest.")
		if !ok {
			continue
		}
		iteration, manifest, _ := strings.Cut(rest, ".")
		n, err := strconv.ParseUint(iteration, 10, 64)
		if err != nil {
			return "", fmt.Errorf("%s in %s is not a marker's name: %w", name, dir, err)
		}
		if n >= newest {
			newest, current = n, manifest
		}
	}
	return current, nil
}

func manifestNumber(name string) (uint64, error) {
	digits, ok := strings.CutPrefix(name, "MANIFEST-")
	if !ok {
		return 0, fmt.Errorf("%q is not the name of a MANIFEST", name)
	}
	return strconv.ParseUint(digits, 10, 64)
}
