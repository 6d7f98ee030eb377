package server

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/errors/oserror"
)

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
	return nil // a newer MANIFEST begins with all that the recorded one had
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
