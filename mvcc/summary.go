package mvcc

import (
	"bytes"
	"fmt"
	"io"
)

// Summary says what a stream of Export holds.
type Summary struct {
	Revision int64  // current revision
	Keys     int    // that exist at it
	Hash     uint32 // CRC-32C of the whole stream: equal for equal content
}

// Summarize reads a stream to its end. It gives the records of a bucket, as RangeMeta does, to record, which must not
// keep them.
func Summarize(r io.Reader, bucket string, record func(key, value []byte)) (Summary, error) {
	in := newStreamReader(r)
	s := Summary{Revision: firstRevision}
	var last []byte // user key of the version before
	records, own := appendMetaKey(nil, bucket, nil), appendMetaKey(nil, bucketStore, keyApplied)
	records = records[:len(records)-1]
	for {
		key, value, err := in.next()
		if err == io.EOF {
			s.Hash = in.sum.Sum32()
			return s, nil
		}
		if err == nil {
			err = validateKey(key)
		}
		if err != nil {
			return Summary{}, fmt.Errorf("mvcc: summarize: %w", err)
		}
		switch {
		case key[0] == spaceKeys:
			user, _, err := decodeVersionKey(key)
			if err != nil {
				return Summary{}, fmt.Errorf("mvcc: summarize: %w", err)
			}
			// The newest version of a key comes first; that of a key that is deleted is empty.
			if !bytes.Equal(user, last) && len(value) > 0 {
				s.Keys++
			}
			last = append(last[:0], user...)
		case bytes.Equal(key, own):
			a, err := decodeApplied(value)
			if err != nil {
				return Summary{}, fmt.Errorf("mvcc: summarize: %w", err)
			}
			s.Revision = a.revision
		case bytes.HasPrefix(key, records):
			record(key[len(records):len(key)-1], value)
		}
	}
}
