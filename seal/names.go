package seal

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// Create makes a file, in place of any other of that name, under the active key.
// Its name must be that of a kind. What was written is on the disk after Sync;
// see Kind for what can be written then.
//
// A marker exists once Create returns, header synced: Pebble closes it without
// a Sync, and its name is its content.
func (fs *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	path := fs.path(name)
	kind, err := fs.kindOf(path)
	if err != nil {
		return nil, err
	}
	if kind == KindJournal {
		return nil, fmt.Errorf("seal: create %s: journal segments are made by CreateSegment", path)
	}
	defer fs.names.lock(path)()
	fs.creating.RLock()
	defer fs.creating.RUnlock()
	w, err := fs.create(path, path, kind, category)
	if err != nil {
		return nil, fmt.Errorf("seal: create %s: %w", path, err)
	}
	return w, nil
}

// create makes the file that shall be known as path. It stands at the path at
// until the caller renames it there; for markers, create does that itself.
func (fs *FS) create(at, path string, kind Kind, category vfs.DiskWriteCategory) (*writer, error) {
	hdr, err := fs.newHeader(kind, fs.base.PathBase(path), 0)
	if err != nil {
		return nil, err
	}
	b, aead, err := fs.sealHeader(&hdr)
	if err != nil {
		return nil, err
	}
	if kind == KindMarker {
		at = fs.unfinishedPath(path)
	}
	if at == path {
		fs.unlink(path)
	}
	file, err := fs.base.Create(at, category)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(b)
	if err == nil && kind == KindMarker {
		if err = file.Sync(); err == nil {
			fs.unlink(path)
			err = fs.base.Rename(at, path)
		}
	}
	if err != nil {
		file.Close()
		fs.base.Remove(at)
		return nil, err
	}
	h := &handle{fs: fs, kind: kind, name: path, file: file, aead: aead, hdr: hdr}
	w := &writer{h: h}
	w.offset.Store(headerSize)
	h.writer = w
	if kind == KindMarker {
		at = path
	}
	fs.register(h, at)
	return w, nil
}

// Open opens a file for reading. It fails with an *Error if the file is not the
// one that was written under its name; of a log, all frames are opened.
func (fs *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	path := fs.path(name)
	if info, err := fs.base.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
		return fs.base.OpenDir(path)
	}
	r, err := fs.openForReading(path, opts)
	if err != nil {
		return nil, err // and not a nil *reader, which is a File that is not nil
	}
	return r, nil
}

func (fs *FS) openForReading(path string, opts []vfs.OpenOption) (*reader, error) {
	kind, err := fs.kindOf(path)
	if err != nil {
		return nil, err
	}
	if kind == KindJournal {
		return nil, fmt.Errorf("seal: open %s: journal segments are read by ReadSegment", path)
	}
	h, err := fs.openAndRegister(path, kind, opts)
	if err != nil {
		return nil, err
	}
	r, err := fs.newReader(h)
	if err != nil {
		h.close()
		return nil, err
	}
	return r, nil
}

func (fs *FS) openAndRegister(path string, kind Kind, opts []vfs.OpenOption) (*handle, error) {
	defer fs.names.lock(path)()
	h, err := fs.openFile(path, opener{opts: opts})
	if errors.Is(err, errNoHeader) {
		if !kind.unfinishedIsEmpty() {
			return nil, altered(kind, path, 0, "%v", err)
		}
		file, err := fs.base.Open(path)
		if err != nil {
			return nil, err
		}
		h = &handle{fs: fs, kind: kind, name: path, file: file}
	} else if err != nil {
		return nil, err
	}
	fs.register(h, path)
	return h, nil
}

// OpenReadWrite fails: no sealed file is changed in place.
func (fs *FS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return nil, fmt.Errorf("seal: open %s for reading and writing: %w", name, errInPlace)
}

// ReuseForWrite removes oldname and creates newname: frames of a former life
// must not open, so nothing of a file can be kept.
func (fs *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Remove(oldname); err != nil {
		return nil, err
	}
	return fs.Create(newname, category)
}

// Remove removes a file or an empty directory.
func (fs *FS) Remove(name string) error {
	path := fs.path(name)
	defer fs.names.lock(path)()
	if err := fs.base.Remove(path); err != nil {
		return err
	}
	fs.unlink(path)
	return nil
}

// RemoveAll removes a file, or a directory with all that is in it.
func (fs *FS) RemoveAll(name string) error {
	path := fs.path(name)
	err := fs.base.RemoveAll(path)
	for _, p := range fs.pathsUnder(path) {
		if _, statErr := fs.base.Stat(p); oserror.IsNotExist(statErr) {
			unlock := fs.names.lock(p)
			fs.unlink(p)
			unlock()
		}
	}
	return err
}

// pathsUnder returns the paths of open files that are path or lie below it.
func (fs *FS) pathsUnder(path string) []string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var paths []string
	for p := range fs.open {
		if p == path || strings.HasPrefix(p, path+"/") {
			paths = append(paths, p)
		}
	}
	return paths
}

// Rename renames a file or directory. A file's base name is part of its header:
// a new one means that the file is sealed anew, under the active key, before it
// appears under its new name.
func (fs *FS) Rename(oldname, newname string) error {
	oldpath, newpath := fs.path(oldname), fs.path(newname)
	info, err := fs.base.Stat(oldpath)
	if err != nil {
		return err
	}
	defer fs.names.lockBoth(oldpath, newpath)()
	defer fs.moves.Add(1)
	switch {
	case info.IsDir():
		if err := fs.base.Rename(oldpath, newpath); err != nil {
			return err
		}
		for _, p := range fs.pathsUnder(oldpath) {
			fs.moved(p, newpath+strings.TrimPrefix(p, oldpath))
		}
		return nil
	case fs.base.PathBase(oldpath) == fs.base.PathBase(newpath):
		if err := fs.base.Rename(oldpath, newpath); err != nil {
			return err
		}
		if oldpath != newpath {
			fs.moved(oldpath, newpath)
		}
		return nil
	}
	err = fs.renameAnew(oldpath, newpath)
	for errors.Is(err, ErrRetiredKey) { // rotated meanwhile
		err = fs.renameAnew(oldpath, newpath)
	}
	if err != nil {
		return fmt.Errorf("seal: rename %s to %s: %w", oldpath, newpath, err)
	}
	return nil
}

// moved records that the file at oldpath stands at newpath now.
func (fs *FS) moved(oldpath, newpath string) {
	fs.unlink(newpath)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if r := fs.reseals[oldpath]; r != nil {
		r.abandon()
	}
	set := fs.open[oldpath]
	delete(fs.open, oldpath)
	if len(set) == 0 {
		return
	}
	for h := range set {
		h.path = newpath
	}
	fs.open[newpath] = set
}

// renameAnew copies the file at oldpath into a new one with the name of newpath.
func (fs *FS) renameAnew(oldpath, newpath string) error {
	oldKind, err := fs.kindOf(oldpath)
	if err != nil {
		return err
	}
	kind, err := fs.kindOf(newpath)
	if err != nil {
		return err
	}
	for _, k := range []Kind{oldKind, kind} {
		if k == KindMarker || k == KindJournal {
			return fmt.Errorf("a %v keeps its name", k)
		}
	}
	if fs.beingWritten(oldpath) {
		return errors.New("it is being written")
	}
	h, err := fs.openFile(oldpath, opener{})
	if err != nil {
		if errors.Is(err, errNoHeader) {
			err = altered(oldKind, oldpath, 0, "%v", err)
		}
		return err
	}
	defer h.file.Close()
	src, err := fs.newReader(h)
	if err != nil {
		return err
	}
	at := fs.unfinishedPath(newpath)
	dst, err := fs.create(at, newpath, kind, writeCategory)
	if err != nil {
		return err
	}
	_, err = io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
	if err == nil {
		err = dst.Sync()
	}
	if closeErr := dst.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fs.putInPlace(dst.h, at, newpath)
	}
	if err != nil {
		fs.base.Remove(at)
		return err
	}
	fs.unlink(newpath)
	if err := fs.base.Remove(oldpath); err != nil {
		return err
	}
	fs.unlink(oldpath)
	return nil
}

// putInPlace renames the finished file h, which stands at the path at, to path,
// unless the data key was rotated since it was begun.
func (fs *FS) putInPlace(h *handle, at, path string) error {
	fs.creating.RLock()
	defer fs.creating.RUnlock()
	if h.hdr.key != fs.kr.Active() {
		return ErrRetiredKey
	}
	return fs.base.Rename(at, path)
}

func (fs *FS) beingWritten(path string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for h := range fs.open[path] {
		if h.writer != nil && !h.writer.done() {
			return true
		}
	}
	return false
}

// Link makes newname a second name of the file, in another directory. A link
// with another base name fails, because the header names one base name only;
// vfs.LinkOrCopy copies then.
func (fs *FS) Link(oldname, newname string) error {
	oldpath, newpath := fs.path(oldname), fs.path(newname)
	if fs.base.PathBase(oldpath) != fs.base.PathBase(newpath) {
		return fmt.Errorf("seal: link %s to %s: a sealed file has one base name: copy it", oldpath, newpath)
	}
	defer fs.names.lockBoth(oldpath, newpath)()
	defer fs.moves.Add(1)
	return fs.base.Link(oldpath, newpath)
}

// Lock locks the file name, the only one that is not sealed: it is empty.
func (fs *FS) Lock(name string) (io.Closer, error) { return fs.base.Lock(name) }

// List lists a directory, without unfinished files. Of markers, whose name is
// what they say, it opens the headers: a marker that was renamed is an *Error.
func (fs *FS) List(dir string) ([]string, error) {
	all, err := fs.base.List(dir)
	if err != nil {
		return nil, err
	}
	names := all[:0]
	for _, name := range all {
		if strings.HasPrefix(name, unfinished) {
			continue
		}
		if kind, ok := KindOf(name); ok && kind == KindMarker {
			r, err := fs.openForReading(fs.path(fs.base.PathJoin(dir, name)), nil)
			if oserror.IsNotExist(err) {
				continue // removed since it was listed
			}
			if err != nil {
				return nil, err
			}
			r.Close()
		}
		names = append(names, name)
	}
	return names, nil
}

// Stat describes a file or directory. The size of a file is that of its
// plaintext; of a journal segment, that of the sealed file.
func (fs *FS) Stat(name string) (vfs.FileInfo, error) {
	path := fs.path(name)
	info, err := fs.base.Stat(path)
	if err != nil {
		return nil, err
	}
	kind, ok := KindOf(fs.base.PathBase(path))
	if info.IsDir() || !ok || kind == KindJournal {
		return info, nil
	}
	if size, ok := fs.writtenSize(path); ok {
		return fileInfo{info, size}, nil
	}
	r, err := fs.openForReading(path, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return fileInfo{info, r.size}, nil
}

// writtenSize returns the logical size of the file at path if it is being
// written.
func (fs *FS) writtenSize(path string) (int64, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for h := range fs.open[path] {
		if h.writer != nil {
			return h.writer.size.Load(), true
		}
	}
	return 0, false
}

// RemoveUnfinished removes, from dirs and all directories below them, what a
// crash left of files that were being made: copies that Reseal had not put in
// place, segments not yet ready. What this process is making is left alone.
func (fs *FS) RemoveUnfinished(dirs ...string) error {
	for _, dir := range dirs {
		err := fs.walk(dir, func(path string, _ vfs.FileInfo) error {
			if !fs.isUnfinished(path) {
				return nil
			}
			return fs.removeUnfinished(path)
		})
		if err != nil {
			return fmt.Errorf("seal: remove what a crash left unfinished: %w", err)
		}
	}
	return nil
}

// removeUnfinished removes the unfinished file at path, unless it is being made:
// then a Reseal is under way, or the lock of the name is held.
func (fs *FS) removeUnfinished(path string) error {
	final := fs.base.PathJoin(fs.base.PathDir(path), finalBase(fs.base.PathBase(path)))
	defer fs.names.lock(final)()
	fs.mu.Lock()
	busy := fs.reseals[final] != nil
	fs.mu.Unlock()
	if busy {
		return nil
	}
	fs.log.Info("removing what a crash left of a file that was being made", zap.String("file", path))
	if err := fs.base.Remove(path); err != nil && !oserror.IsNotExist(err) {
		return err
	}
	return nil
}

// walk gives every regular file in and below dir to visit. What vanishes
// meanwhile is left out.
func (fs *FS) walk(dir string, visit func(path string, info vfs.FileInfo) error) error {
	names, err := fs.base.List(dir)
	if err != nil {
		if oserror.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, name := range names {
		if name == "lost+found" {
			continue // the disk's own, which only root can read
		}
		path := fs.base.PathJoin(dir, name)
		info, err := fs.base.Stat(path)
		switch {
		case oserror.IsNotExist(err):
			continue
		case err != nil:
			return err
		case info.IsDir():
			err = fs.walk(path, visit)
		default:
			err = visit(path, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
