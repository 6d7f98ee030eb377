package seal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"go.uber.org/zap"
)

// A Usage says how much is sealed under one data key in files of one kind.
type Usage struct {
	Key   keyring.ID // zero for foreign files
	Kind  Kind
	Files int
	Bytes int64    // of sealed files, headers included
	Names []string // the paths of foreign files
}

// Inventory counts what is under each data key: every file in and below dirs,
// and every file still open that has no name any more. If it is taken after
// Rotate, nothing comes under the retired key afterwards. The LOCK and the
// keyring are not sealed and not counted.
//
// A foreign file, which neither begins as a sealed file nor has the name of one,
// cannot be under a data key: all of them are listed together, as KindForeign.
// Anything else that is not sealed, or cannot be read, may be what is left of a
// file under any key, and is an error.
func (fs *FS) Inventory(dirs ...string) ([]Usage, error) {
	// Whatever appears from here on does so under a key that is active now.
	fs.creating.Lock()
	fs.creating.Unlock() //lint:ignore SA2001 a barrier: whoever is creating is waited for

	const tries = 10
	for range tries {
		moves := fs.moves.Load()
		usage, err := fs.takeInventory(dirs)
		if err != nil {
			return nil, fmt.Errorf("seal: take inventory: %w", err)
		}
		// A file renamed meanwhile may have gone from where it was not counted
		// yet to where all was.
		if fs.moves.Load() == moves {
			return usage, nil
		}
	}
	return nil, fmt.Errorf("seal: take inventory: files were renamed all the time: try again")
}

func (fs *FS) takeInventory(dirs []string) ([]Usage, error) {
	type group struct {
		key  keyring.ID
		kind Kind
	}
	groups := make(map[group]Usage)
	count := func(hdr header, size int64, names ...string) {
		g := group{hdr.key, hdr.kind}
		u := groups[g]
		groups[g] = Usage{Key: g.key, Kind: g.kind, Files: u.Files + 1, Bytes: u.Bytes + size, Names: append(u.Names, names...)}
	}
	for _, dir := range dirs {
		err := fs.walk(dir, func(path string, info vfs.FileInfo) error {
			hdr, is, err := fs.headerAt(path, info)
			switch {
			case err != nil:
				return err
			case is == sealed:
				count(hdr, info.Size())
			case is == foreign:
				count(header{kind: KindForeign}, info.Size(), path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	fs.mu.Lock()
	unlinked := make([]*handle, 0, len(fs.unlinked))
	for h := range fs.unlinked {
		unlinked = append(unlinked, h)
	}
	fs.mu.Unlock()
	for _, h := range unlinked {
		size, err := h.physicalSize()
		if err != nil {
			return nil, err
		}
		h.mu.RLock()
		if h.file != nil && h.aead != nil {
			count(h.hdr, size)
		}
		h.mu.RUnlock()
	}
	usage := make([]Usage, 0, len(groups))
	for _, u := range groups {
		slices.Sort(u.Names)
		usage = append(usage, u)
	}
	slices.SortFunc(usage, func(a, b Usage) int {
		return cmp.Or(slices.Compare(a.Key[:], b.Key[:]), cmp.Compare(a.Kind, b.Kind))
	})
	return usage, nil
}

// RemoveUnused removes from the keyring the decrypt-only keys under which there
// is nothing, in and below dirs and in open files, and returns them. dirs must
// be all that this member has.
func (fs *FS) RemoveUnused(dirs ...string) ([]keyring.ID, error) {
	var idle []keyring.ID
	for _, k := range fs.kr.Keys() {
		if k.State == keyring.DecryptOnly {
			idle = append(idle, k.ID)
		}
	}
	if len(idle) == 0 {
		return nil, nil
	}
	usage, err := fs.Inventory(dirs...)
	if err != nil {
		return nil, err
	}
	for _, u := range usage {
		if u.Kind == KindForeign {
			fs.log.Warn("found files among the sealed ones that are not Coffer's and not encrypted: move them elsewhere",
				zap.Strings("files", u.Names), zap.Int64("bytes", u.Bytes))
		}
	}
	idle = slices.DeleteFunc(idle, func(id keyring.ID) bool {
		return slices.ContainsFunc(usage, func(u Usage) bool { return u.Key == id })
	})
	for i, id := range idle {
		if err := fs.kr.Remove(id); err != nil {
			return idle[:i], err
		}
	}
	return idle, nil
}

func (fs *FS) isUnfinished(path string) bool {
	return strings.HasPrefix(fs.base.PathBase(path), unfinished)
}

// found says what a file has to do with data keys.
type found int

const (
	empty   found = iota // nothing that could be under a key: no header yet, or not the sealed files' business
	sealed               // under the key that its header names
	foreign              // see Inventory
)

// headerAt finds out what the file at path is, and returns its authenticated
// header if it is sealed.
func (fs *FS) headerAt(path string, info vfs.FileInfo) (hdr header, is found, err error) {
	base := fs.base.PathBase(path)
	if base == "LOCK" || base == "KEYRING" || base == "KEYRING.tmp" {
		return hdr, empty, nil
	}
	if !info.Mode().IsRegular() {
		return hdr, foreign, nil // not to be opened: a pipe would wait for its other end
	}
	file, err := fs.base.Open(path)
	if oserror.IsNotExist(err) {
		return hdr, empty, nil
	}
	if err != nil {
		return hdr, empty, err
	}
	defer file.Close()
	b := make([]byte, headerSize)
	n, err := file.ReadAt(b, 0)
	if n < headerSize && err != nil && !errors.Is(err, io.EOF) {
		return hdr, empty, fmt.Errorf("read the header of %s: %w", path, err)
	}
	kind, named := KindOf(finalBase(base))
	switch {
	case !named && !bytes.HasPrefix(b, []byte(magic)):
		return hdr, foreign, nil
	case lastNonZero(b) == 0 || n < headerSize && kind.unfinishedIsEmpty():
		return hdr, empty, nil
	case !named:
		return hdr, empty, fmt.Errorf("%s begins as a sealed file, but no sealed file has such a name: move it elsewhere", path)
	case n < headerSize:
		return hdr, empty, altered(kind, path, 0, "%v", errNoHeader)
	}
	if hdr, _, err = fs.openHeader(path, b); err != nil {
		return hdr, empty, err
	}
	return hdr, sealed, nil
}
