package mvcc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

const (
	streamMagic = "coffer-mvcc-1\n"

	// What a record may hold: more than any request can carry, little enough to be allocated for a stream that lies.
	maxStreamKey   = 64 << 20
	maxStreamValue = 1 << 30

	importBatchBytes = 1 << 20
)

var errStream = errors.New("mvcc: the stream is damaged or is not one of a store")

// Export writes the whole content, as of one moment, as a stream that Import reads. It is not sealed: w must be.
func (db *DB) Export(ctx context.Context, w io.Writer) error {
	e, err := db.NewExport()
	if err != nil {
		return err
	}
	return errors.Join(e.Write(ctx, w), e.Close())
}

// Export is the whole content of a store as of the moment when NewExport was called. It is for one goroutine.
type Export struct {
	it       *pebble.Iterator
	revision int64
}

// NewExport holds the present content fast for writing it out. The caller closes it, before the store.
func (db *DB) NewExport() (*Export, error) {
	it, err := db.pebble.NewIter(nil)
	if err != nil {
		return nil, fmt.Errorf("mvcc: export: %w", err)
	}
	e := &Export{it: it, revision: firstRevision}
	if key := appendMetaKey(nil, bucketStore, keyApplied); it.SeekGE(key) && bytes.Equal(it.Key(), key) {
		v, err := it.ValueAndErr()
		if err == nil {
			var a applied
			a, err = decodeApplied(v)
			e.revision = a.revision
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("mvcc: export: applied record: %w", err), it.Close())
		}
	}
	if err := it.Error(); err != nil {
		return nil, errors.Join(fmt.Errorf("mvcc: export: %w", err), it.Close())
	}
	return e, nil
}

// Revision returns the current revision of the content.
func (e *Export) Revision() int64 { return e.revision }

// Close lets go of the content.
func (e *Export) Close() error { return e.it.Close() }

// Write writes the content as a stream that Import reads. It is not sealed: w must be.
func (e *Export) Write(ctx context.Context, w io.Writer) error {
	it := e.it
	sum := crc32.New(castagnoli)
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	out.WriteString(streamMagic)
	var head []byte
	n := uint64(0)
	for it.First(); it.Valid(); it.Next() {
		if n&255 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("mvcc: export: %w", err)
		}
		head = binary.AppendUvarint(head[:0], uint64(len(it.Key())))
		head = binary.AppendUvarint(append(head, it.Key()...), uint64(len(v)))
		out.Write(head)
		if _, err := out.Write(v); err != nil {
			return fmt.Errorf("mvcc: export: %w", err)
		}
		n++
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("mvcc: export: %w", err)
	}
	out.Write(binary.AppendUvarint([]byte{0}, n))
	if err := out.Flush(); err != nil {
		return fmt.Errorf("mvcc: export: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("mvcc: export: %w", err)
	}
	return nil
}

// Import creates a store from a stream that Export wrote, durable when it returns, and opens it. The directory must not
// hold a store yet. A store whose import failed or was interrupted does not open.
func Import(ctx context.Context, o Options, r io.Reader) (*DB, error) {
	db, err := openEngine(o, true)
	if err != nil {
		return nil, err
	}
	if err := db.fill(ctx, r); err != nil {
		return nil, errors.Join(fmt.Errorf("mvcc: import into %s: %w", o.Dir, err), db.pebble.Close())
	}
	return db.start()
}

// fill loads a stream into an empty store. The records come in their order, so the tables that are flushed do not
// overlap, and Pebble can move most of them to the last level as they are.
func (db *DB) fill(ctx context.Context, r io.Reader) error {
	importing := appendMetaKey(nil, bucketStore, keyImporting)
	if err := db.pebble.Set(importing, nil, pebble.NoSync); err != nil {
		return err
	}
	if err := db.Flush(); err != nil {
		return err
	}
	in := newStreamReader(r)
	b := db.pebble.NewBatch()
	defer func() { b.Close() }()
	var last []byte
	for {
		key, value, err := in.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := checkStored(key, last); err != nil {
			return err
		}
		last = append(last[:0], key...)
		if err := b.Set(key, value, nil); err != nil {
			return err
		}
		if b.Len() >= importBatchBytes {
			if err := b.Commit(pebble.NoSync); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			b.Reset()
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	if err := db.Flush(); err != nil {
		return err
	}
	if err := db.pebble.Delete(importing, pebble.NoSync); err != nil {
		return err
	}
	return db.Flush()
}

// checkStored checks that key is one that a store holds and that it comes after last.
func checkStored(key, last []byte) error {
	if err := validateKey(key); err != nil {
		return errStream
	}
	if len(last) > 0 && compareKeys(last, key) >= 0 {
		return fmt.Errorf("%w: records are out of order", errStream)
	}
	var err error
	switch key[0] {
	case spaceKeys:
		_, _, err = decodeVersionKey(key)
	case spaceRevisions:
		_, err = decodeRevisionKey(key)
	case spaceMeta:
		if key[len(key)-1] != 0 || bytes.IndexByte(key[1:len(key)-1], 0) < 1 {
			err = errStream
		}
	default:
		err = errStream
	}
	if err != nil {
		return errStream
	}
	return nil
}

// streamReader parses a stream.
type streamReader struct {
	in         *bufio.Reader
	sum        hash.Hash32
	n          uint64
	begun      bool
	key, value []byte
}

func newStreamReader(r io.Reader) *streamReader {
	return &streamReader{in: bufio.NewReaderSize(r, 256<<10), sum: crc32.New(castagnoli)}
}

// next returns the next record, valid until the next call, or io.EOF after a stream that is whole.
func (s *streamReader) next() (key, value []byte, err error) {
	if !s.begun {
		s.begun = true
		if s.key, err = s.take(s.key, uint64(len(streamMagic)), maxStreamKey); err != nil {
			return nil, nil, err
		}
		if string(s.key) != streamMagic {
			return nil, nil, errStream
		}
	}
	n, err := s.uvarint()
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, s.end()
	}
	if s.key, err = s.take(s.key, n, maxStreamKey); err != nil {
		return nil, nil, err
	}
	if n, err = s.uvarint(); err != nil {
		return nil, nil, err
	}
	if s.value, err = s.take(s.value, n, maxStreamValue); err != nil {
		return nil, nil, err
	}
	s.n++
	return s.key, s.value, nil
}

// end checks what closes the stream.
func (s *streamReader) end() error {
	n, err := s.uvarint()
	if err != nil {
		return err
	}
	want := s.sum.Sum32()
	var sum [4]byte
	if _, err := io.ReadFull(s.in, sum[:]); err != nil {
		return s.broken(err)
	}
	if n != s.n || binary.BigEndian.Uint32(sum[:]) != want {
		return errStream
	}
	return io.EOF
}

// uvarint reads a number. Only its shortest encoding is taken.
func (s *streamReader) uvarint() (v uint64, err error) {
	for shift := 0; shift < 64; shift += 7 {
		c, err := s.in.ReadByte()
		if err != nil {
			return 0, s.broken(err)
		}
		s.sum.Write([]byte{c})
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if c == 0 && shift > 0 {
				return 0, errStream
			}
			return v, nil
		}
	}
	return 0, errStream
}

// take reads n bytes into buf, a piece at a time: the stream may end before the length that it claims.
func (s *streamReader) take(buf []byte, n uint64, limit int) ([]byte, error) {
	if n > uint64(limit) {
		return buf, errStream
	}
	buf = buf[:0]
	for left := int(n); left > 0; {
		piece := min(left, 1<<20)
		at := len(buf)
		buf = append(buf, make([]byte, piece)...)
		if _, err := io.ReadFull(s.in, buf[at:]); err != nil {
			return buf, s.broken(err)
		}
		left -= piece
	}
	s.sum.Write(buf)
	return buf, nil
}

// broken says that the stream ended too early, or why it cannot be read.
func (s *streamReader) broken(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends too early", errStream)
	}
	return err
}
