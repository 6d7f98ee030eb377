package seal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// resealing is a Reseal under way.
type resealing struct {
	cancel    context.CancelFunc
	abandoned bool
}

// abandon tells the Reseal that its file has lost its name. The caller holds
// fs.mu and the lock of the name.
func (r *resealing) abandon() {
	r.abandoned = true
	r.cancel()
}

// Reseal puts the file under the active key, in place and while it is in use. It
// writes the same frames, sealed anew, to a new file, at the rate of limit in
// bytes a second (nil: unlimited), renames that over the old one, and exchanges
// descriptor and file key in every open handle, those for writing included.
// Content, offsets, and the marks that tails refer to stay what they were.
//
// If the file is removed, renamed or replaced meanwhile, Reseal gives up, without
// an error. After any error the file is as it was, unless the error is that the
// directory could not be synced.
func (fs *FS) Reseal(ctx context.Context, name string, limit *rate.Limiter) error {
	path := fs.path(name)
	if _, err := fs.kindOf(path); err != nil {
		return err
	}
	err := fs.reseal(ctx, path, limit)
	for errors.Is(err, ErrRetiredKey) { // rotated meanwhile
		err = fs.reseal(ctx, path, limit)
	}
	return err
}

func (fs *FS) reseal(ctx context.Context, path string, limit *rate.Limiter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &copier{fs: fs, path: path, at: fs.resealedPath(path), limit: limit}
	if needed, err := c.begin(cancel); err != nil || !needed {
		return err
	}
	err := c.run(ctx)
	if err != nil {
		fs.base.Remove(c.at) // before another Reseal can be at work there
	}
	abandoned := c.end()
	if err != nil {
		if abandoned {
			return nil
		}
		return fmt.Errorf("seal: reseal %s: %w", path, err)
	}
	fs.log.Debug("resealed a file", zap.String("file", path), zap.Stringer("from", c.from), zap.Stringer("to", c.dst.hdr.key))
	return nil
}

// A copier seals one file anew.
type copier struct {
	fs       *FS
	path, at string // the file, and where its copy is made
	limit    *rate.Limiter
	job      *resealing

	src   *handle
	from  keyring.ID // the key of src
	dst   *handle
	pos   SegmentEnd // up to where frames were copied
	done  bool       // the final frame was copied
	grows bool       // the file was being written when size was last asked for
	buf   []byte     // frames not written yet
}

// begin opens the file, and says whether it needs to be resealed at all.
func (c *copier) begin(cancel context.CancelFunc) (needed bool, err error) {
	fs := c.fs
	defer fs.names.lock(c.path)()
	src, err := fs.openFile(c.path, opener{})
	if errors.Is(err, errNoHeader) {
		return false, nil // nothing in it is sealed
	}
	if err != nil {
		return false, err
	}
	if src.hdr.key == fs.kr.Active() {
		return false, src.file.Close()
	}
	fs.mu.Lock()
	if fs.reseals[c.path] != nil {
		fs.mu.Unlock()
		src.file.Close()
		return false, fmt.Errorf("seal: reseal %s: already under way", c.path)
	}
	c.job = &resealing{cancel: cancel}
	fs.reseals[c.path] = c.job
	fs.mu.Unlock()
	c.src, c.from, c.pos = src, src.hdr.key, logStart
	fs.register(src, c.path)
	return true, nil
}

// end closes what begin opened and says whether the Reseal was abandoned.
func (c *copier) end() (abandoned bool) {
	c.fs.mu.Lock()
	delete(c.fs.reseals, c.path)
	abandoned = c.job.abandoned
	c.fs.mu.Unlock()
	c.src.close()
	if c.dst != nil && c.dst.file != nil {
		c.dst.file.Close()
	}
	return abandoned
}

func (c *copier) run(ctx context.Context) error {
	if err := c.create(); err != nil {
		return err
	}
	// While the file is being written, most of it is copied without stopping the
	// writer, and the rest in commit.
	const rest = 256 << 10
	for {
		size, err := c.size()
		if err != nil {
			return err
		}
		from := c.pos.Offset
		if err := c.copy(ctx, size); err != nil {
			return err
		}
		if !c.grows || c.pos.Offset-from < rest {
			break
		}
	}
	if err := c.dst.file.Sync(); err != nil {
		return err
	}
	return c.commit(ctx)
}

// create makes the file for the copy.
func (c *copier) create() error {
	fs := c.fs
	hdr, err := fs.newHeader(c.src.kind, fs.base.PathBase(c.path), c.src.hdr.length)
	if err != nil {
		return err
	}
	hdr.frameSize = c.src.hdr.frameSize
	b, aead, err := fs.sealHeader(&hdr)
	if err != nil {
		return err
	}
	file, err := fs.base.Create(c.at, writeCategory)
	if err != nil {
		return err
	}
	c.dst = &handle{fs: fs, kind: hdr.kind, name: c.path, file: file, aead: aead, hdr: hdr}
	_, err = file.Write(b)
	return err
}

// live returns the handle through which the file is being written, if any.
func (c *copier) live() *handle {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	for h := range c.fs.open[c.path] {
		if h.segment != nil || h.writer != nil {
			return h
		}
	}
	return nil
}

// size returns up to where the frames of the file can be copied now.
func (c *copier) size() (int64, error) {
	h := c.live()
	c.grows = h != nil
	switch {
	case h == nil:
	case h.segment != nil:
		h.segment.mu.Lock()
		defer h.segment.mu.Unlock()
		return h.segment.end.Offset, nil
	default:
		return h.writer.offset.Load(), nil
	}
	if c.src.kind == KindJournal {
		return c.src.hdr.length - sector, nil
	}
	return c.src.physicalSize()
}

// copy copies the frames up to size, as size returned it.
func (c *copier) copy(ctx context.Context, size int64) error {
	var err error
	switch {
	case c.src.kind == KindMarker:
	case c.src.kind.log():
		err = c.copyLog(size, func(_ Frame, frame func([]byte) []byte) error {
			c.buf = frame(c.buf)
			return c.flush(ctx, writeBuffer)
		})
	default:
		err = c.copyFrames(ctx, size)
	}
	if err == nil {
		err = c.flush(ctx, 1)
	}
	return err
}

// copyLog gives the frames of a log up to size, sealed anew, to visit: appended
// to what frame is given.
func (c *copier) copyLog(size int64, visit func(f Frame, frame func([]byte) []byte) error) error {
	s := getScratch()
	defer s.release()
	var err error
	c.pos, err = c.src.scan(c.pos, size, func(f Frame, mark [markSize]byte, data []byte) error {
		return visit(f, func(dst []byte) []byte {
			text := s.logText(mark, data)
			c.src.kind.countSealed(1, len(text))
			return s.seal(dst, c.dst.aead, f.Index, false, text)
		})
	})
	if err == nil && c.grows && c.pos.Offset != size {
		err = altered(c.src.kind, c.path, c.pos.Offset, "frame %d does not open, and this process wrote it", c.pos.Tail.Frames)
	}
	return err
}

// copyFrames copies frames of a file that is written once.
func (c *copier) copyFrames(ctx context.Context, size int64) error {
	s := getScratch()
	defer s.release()
	w := window{h: c.src, size: size}
	for c.pos.Offset < size {
		frame, err := w.at(c.pos.Offset, c.src.hdr.frameSize+overhead)
		if err != nil {
			return err
		}
		word := uint32(0)
		if len(frame) >= overhead {
			word = binary.LittleEndian.Uint32(frame)
		}
		s.text = sized(s.text, len(frame))
		text, err := s.open(s.text[:0], c.src.aead, c.pos.Tail.Frames, word, frame)
		final := word&finalBit != 0
		if err == nil && (int(word&^finalBit) != len(text) || !final && len(text) != c.src.hdr.frameSize) {
			err = errFrame
		}
		if err != nil {
			return altered(c.src.kind, c.path, c.pos.Offset, "frame %d does not open", c.pos.Tail.Frames)
		}
		c.src.kind.countOpened(1, len(text))
		c.src.kind.countSealed(1, len(text))
		c.buf = s.seal(c.buf, c.dst.aead, c.pos.Tail.Frames, final, text)
		if err := c.flush(ctx, writeBuffer); err != nil {
			return err
		}
		c.pos.Tail.Frames++
		c.pos.Offset += int64(len(frame))
		c.done = final
	}
	return nil
}

// flush writes the frames in c.buf if they are at least so many bytes.
func (c *copier) flush(ctx context.Context, least int) error {
	n := len(c.buf)
	if n < least {
		return nil
	}
	if err := wait(ctx, c.limit, n); err != nil {
		return err
	}
	_, err := c.dst.file.Write(c.buf)
	c.buf = c.buf[:0]
	if err == nil {
		metricsOf[c.src.kind].resealedBytes.Add(float64(n))
	}
	return err
}

// wait waits until limit permits n bytes.
func wait(ctx context.Context, limit *rate.Limiter, n int) error {
	if limit == nil {
		return ctx.Err()
	}
	for n > 0 {
		part := min(n, max(limit.Burst(), 1))
		if err := limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// commit copies what is left, puts the copy in place of the file, and gives it
// to the open handles. Nothing can be opened, removed, linked or renamed under
// the name meanwhile, and nothing written.
func (c *copier) commit(ctx context.Context) error {
	fs := c.fs
	if c.src.kind == KindJournal {
		if err := c.fillSegment(ctx); err != nil {
			return err
		}
	}
	defer fs.names.lock(c.path)()
	if err := ctx.Err(); err != nil {
		return err
	}
	fs.creating.RLock()
	defer fs.creating.RUnlock()
	if c.dst.hdr.key != fs.kr.Active() {
		return ErrRetiredKey
	}
	live := c.live()
	if live != nil {
		live.mu.Lock()
		defer live.mu.Unlock()
		if live.file == nil { // closed meanwhile
			live = nil
		}
	}
	if err := c.finish(live); err != nil {
		return err
	}
	handles, files, err := c.reopen(live)
	if err == nil {
		err = fs.base.Rename(c.at, c.path)
	}
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return err
	}
	syncErr := fs.syncDirOf(c.path)
	for i, h := range handles {
		if h != live {
			h.mu.Lock()
		}
		h.exchange(files[i], c.dst)
		if h == live && syncErr != nil {
			h.failWriting(syncErr)
		}
		if h != live {
			h.mu.Unlock()
		}
	}
	return syncErr
}

// fillSegment gives the copy of a segment its whole length.
func (c *copier) fillSegment(ctx context.Context) error {
	n := c.src.hdr.length - c.pos.Offset
	if err := writeZeros(func(b []byte) (int, error) {
		if err := wait(ctx, c.limit, len(b)); err != nil {
			return 0, err
		}
		return c.dst.file.Write(b)
	}, n); err != nil {
		return err
	}
	return c.dst.file.Sync()
}

// finish copies what was written since the last round. live is locked.
func (c *copier) finish(live *handle) error {
	ctx := context.Background() // a short rest, and a writer waits: no limit
	c.limit = nil
	if c.src.kind == KindJournal {
		return c.finishSegment(live)
	}
	if live != nil && live.writer.failed == nil {
		if err := live.writer.flush(); err != nil {
			return err
		}
	}
	size, err := c.size()
	if err != nil {
		return err
	}
	if err := c.copy(ctx, size); err != nil {
		return err
	}
	once := c.src.kind != KindMarker && !c.src.kind.log()
	if once && live == nil && !c.done {
		return altered(c.src.kind, c.path, c.pos.Offset, "it does not end with its final frame")
	}
	return c.dst.file.SyncData()
}

// finishSegment copies the frames appended since, and the end mark, into the
// copy, which has its whole length already.
func (c *copier) finishSegment(live *handle) error {
	grew := c.grows // when most of it was copied
	size, err := c.size()
	if err != nil {
		return err
	}
	if grew || live != nil {
		err := c.copyLog(size, func(f Frame, frame func([]byte) []byte) error {
			c.buf = frame(c.buf[:0])
			_, err := c.dst.file.WriteAt(c.buf, f.Offset)
			return err
		})
		if err != nil {
			return err
		}
	}
	ended, err := c.src.readEndMark(c.pos)
	if err != nil {
		return err
	}
	if ended {
		s := getScratch()
		defer s.release()
		c.buf = s.seal(c.buf[:0], c.dst.aead, c.pos.Tail.Frames, true, s.logText([markSize]byte{}, nil))
		if _, err := c.dst.file.WriteAt(c.buf, c.src.hdr.length-sector); err != nil {
			return err
		}
	}
	return c.dst.file.SyncData()
}

// reopen opens the copy once more for every open handle of the file. It is
// still under its other name, so that a failure leaves all as it was.
func (c *copier) reopen(live *handle) (handles []*handle, files []vfs.File, err error) {
	fs := c.fs
	fs.mu.Lock()
	for h := range fs.open[c.path] {
		if h != c.src {
			handles = append(handles, h)
		}
	}
	fs.mu.Unlock()
	for _, h := range handles {
		if h.writer != nil {
			files = append(files, c.dst.file)
			continue
		}
		file, err := h.opener.open(fs.base, c.at)
		if err != nil {
			return nil, files, err
		}
		files = append(files, file)
	}
	return handles, files, nil
}

// exchange puts h on the file of dst. The caller has locked h.
func (h *handle) exchange(file vfs.File, dst *handle) {
	if h.file == nil { // closed meanwhile
		if file != dst.file {
			file.Close()
		}
		return
	}
	h.file.Close() // nothing is lost by a failure: its content was read, and synced, elsewhere
	h.file, h.aead, h.hdr = file, dst.aead, dst.hdr
	if file == dst.file {
		dst.file = nil
	}
}

// failWriting makes every further write through h fail with err.
func (h *handle) failWriting(err error) {
	if h.segment != nil {
		h.segment.fail(err)
	} else {
		h.writer.failed = err
	}
}

// ResealAll reseals every file in and below dirs that is not under the active
// key. It goes on after an error, and returns all of them.
func (fs *FS) ResealAll(ctx context.Context, limit *rate.Limiter, dirs ...string) error {
	active := fs.kr.Active()
	var errs []error
	for _, dir := range dirs {
		err := fs.walk(dir, func(path string, info vfs.FileInfo) error {
			if fs.isUnfinished(path) {
				return nil
			}
			hdr, is, err := fs.headerAt(path, info)
			if is == sealed && hdr.key != active {
				err = fs.Reseal(ctx, path, limit)
			}
			if err != nil && !oserror.IsNotExist(err) {
				errs = append(errs, err)
			}
			return ctx.Err()
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
