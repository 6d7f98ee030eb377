package seal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
)

// A Usage says how much is sealed under one data key in files of one kind.
type Usage struct {
	Key   keyring.ID
	Kind  Kind
	Files int
	Bytes int64 // of sealed files, headers included
}

// Inventory counts what is under each data key: every file in and below dirs,
// and every file still open that has no name any more. If it is taken after
// Rotate, nothing comes under the retired key afterwards. The LOCK and the
// keyring are not sealed and not counted; any other file that is not sealed is
// an error.
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
	count := func(hdr header, size int64) {
		g := group{hdr.key, hdr.kind}
		u := groups[g]
		groups[g] = Usage{Key: g.key, Kind: g.kind, Files: u.Files + 1, Bytes: u.Bytes + size}
	}
	for _, dir := range dirs {
		err := fs.walkSealed(dir, func(_ string, hdr header, size int64) error {
			count(hdr, size)
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

// walkSealed gives the authenticated header and the size of every sealed file in
// and below dir to visit. A header under a key that the keyring does not hold
// counts too, although it cannot be authenticated. Files without a complete header
// are left out: nothing in them is sealed.
func (fs *FS) walkSealed(dir string, visit func(path string, hdr header, size int64) error) error {
	return fs.walk(dir, func(path string, info vfs.FileInfo) error {
		hdr, ok, err := fs.headerAt(path)
		if err != nil || !ok {
			return err
		}
		return visit(path, hdr, info.Size())
	})
}

// headerAt returns the header of the file at path, as walkSealed has it, and
// whether there is one.
func (fs *FS) headerAt(path string) (hdr header, ok bool, err error) {
	base := fs.base.PathBase(path)
	if base == "LOCK" || base == "KEYRING" || base == "KEYRING.tmp" {
		return hdr, false, nil
	}
	file, err := fs.base.Open(path)
	if oserror.IsNotExist(err) {
		return hdr, false, nil
	}
	if err != nil {
		return hdr, false, err
	}
	defer file.Close()
	b := make([]byte, headerSize)
	if n, err := file.ReadAt(b, 0); n < headerSize {
		if err != nil && !errors.Is(err, io.EOF) {
			return hdr, false, fmt.Errorf("read the header of %s: %w", path, err)
		}
		return hdr, false, nil
	}
	if lastNonZero(b) == 0 {
		return hdr, false, nil
	}
	hdr, _, err = fs.openHeader(path, b)
	if errors.Is(err, keyring.ErrUnknownKey) {
		hdr, err = parseHeader(b)
	}
	return hdr, err == nil, err
}
