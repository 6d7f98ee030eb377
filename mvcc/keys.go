package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/cockroachdb/pebble/v2"
)

// An engine key is a prefix and a suffix. The prefix is the space, a body and a zero byte; the suffix, which only
// versions of user keys have, is a revision and the length of the suffix itself. So the last byte of a key says where its
// suffix begins, and zero says that it has none. FORMAT.md has the details.
const (
	spaceKeys      = 'k' // user key, revision -> message in wire encoding, or nothing for a deletion
	spaceMeta      = 'm' // bucket, zero byte, key -> record
	spaceRevisions = 'r' // revision -> change
	spaceEnd       = 's' // above all spaces

	revLen    = 8 + 4      // bytes of an encoded revision
	suffixLen = revLen + 1 // with its length byte
)

func appendRev(dst []byte, r Rev) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Main))
	return binary.BigEndian.AppendUint32(dst, uint32(r.Sub))
}

func decodeRev(b []byte) Rev {
	return Rev{Main: int64(binary.BigEndian.Uint64(b)), Sub: int32(binary.BigEndian.Uint32(b[8:]))}
}

// appendKeyPrefix appends the engine key that sorts before all versions of a user key.
func appendKeyPrefix(dst, key []byte) []byte {
	dst = append(dst, spaceKeys)
	dst = append(dst, key...)
	return append(dst, 0)
}

// appendVersionKey appends the engine key of one version of a user key.
func appendVersionKey(dst, key []byte, r Rev) []byte {
	return append(appendRev(appendKeyPrefix(dst, key), r), suffixLen)
}

// decodeVersionKey returns the parts of an engine key of the key space. The user key shares memory with it.
func decodeVersionKey(k []byte) (key []byte, r Rev, err error) {
	n := len(k) - suffixLen
	if n < 3 || k[0] != spaceKeys || k[len(k)-1] != suffixLen || k[n-1] != 0 {
		return nil, Rev{}, fmt.Errorf("mvcc: malformed version key of %d bytes", len(k))
	}
	return k[1 : n-1], decodeRev(k[n:]), nil
}

// appendRevisionKey appends the engine key of a change.
func appendRevisionKey(dst []byte, r Rev) []byte {
	return append(appendRev(append(dst, spaceRevisions), r), 0)
}

func decodeRevisionKey(k []byte) (Rev, error) {
	if len(k) != 1+revLen+1 || k[0] != spaceRevisions || k[len(k)-1] != 0 {
		return Rev{}, fmt.Errorf("mvcc: malformed revision key of %d bytes", len(k))
	}
	return decodeRev(k[1:]), nil
}

// appendMetaKey appends the engine key of a record outside the history.
func appendMetaKey(dst []byte, bucket string, key []byte) []byte {
	dst = append(dst, spaceMeta)
	dst = append(dst, bucket...)
	dst = append(dst, 0)
	dst = append(dst, key...)
	return append(dst, 0)
}

// comparer orders engine keys: prefixes as bytes, and the versions of one user key newest first. The zero byte that
// ends every prefix keeps bytes in the order of user keys, one of which may be the beginning of another.
var comparer = &pebble.Comparer{
	Name:                 "coffer.mvcc.v1",
	Split:                splitKey,
	Compare:              compareKeys,
	Equal:                bytes.Equal,
	ComparePointSuffixes: compareSuffixes,
	CompareRangeSuffixes: compareSuffixes,
	AbbreviatedKey: func(k []byte) uint64 {
		return pebble.DefaultComparer.AbbreviatedKey(k[:splitKey(k)])
	},
	Separator:          separator,
	Successor:          successor,
	ImmediateSuccessor: func(dst, prefix []byte) []byte { return append(append(dst, prefix...), 0) },
	FormatKey:          func(k []byte) fmt.Formatter { return hashedKey(k) },
	FormatValue:        func(_, v []byte) fmt.Formatter { return hashedKey(v) },
	ValidateKey:        validateKey,
}

func splitKey(k []byte) int {
	if len(k) == 0 {
		return 0
	}
	n := len(k) - int(k[len(k)-1])
	if n < 0 {
		return len(k) // not a key of ours; only ever compared, never stored
	}
	return n
}

func validateKey(k []byte) error {
	if len(k) > 0 && k[len(k)-1] != 0 && (k[len(k)-1] != suffixLen || len(k) < suffixLen) {
		return fmt.Errorf("mvcc: malformed engine key of %d bytes", len(k))
	}
	return nil
}

func compareKeys(a, b []byte) int {
	an, bn := splitKey(a), splitKey(b)
	if c := bytes.Compare(a[:an], b[:bn]); c != 0 {
		return c
	}
	return compareSuffixes(a[an:], b[bn:])
}

// compareSuffixes puts no suffix first, then the newest.
func compareSuffixes(a, b []byte) int {
	if len(a) == 0 || len(b) == 0 {
		return cmp.Compare(len(a), len(b))
	}
	return bytes.Compare(b, a)
}

// separator appends a key k, a <= k < b, that is short: a prefix without suffix if there is one.
func separator(dst, a, b []byte) []byte {
	ap, bp := a[:splitKey(a)], b[:splitKey(b)]
	i := 0
	for i < len(ap) && i < len(bp) && ap[i] == bp[i] {
		i++
	}
	if i >= len(ap) || i >= len(bp) || ap[i] == 0xff || i+2 >= len(a) {
		return append(dst, a...)
	}
	n := len(dst)
	dst = append(dst, ap[:i+1]...)
	dst[n+i]++
	dst = append(dst, 0)
	if bytes.Compare(dst[n:], bp) >= 0 {
		return append(dst[:n], a...)
	}
	return dst
}

// successor appends a key that is not less than a, and short.
func successor(dst, a []byte) []byte {
	ap := a[:splitKey(a)]
	for i, c := range ap {
		if c == 0xff {
			continue
		}
		if i+2 >= len(a) {
			break
		}
		dst = append(dst, ap[:i]...)
		return append(dst, c+1, 0)
	}
	return append(dst, a...)
}

// hashedKey formats a key or value, which no log may show, as a hash and a length.
type hashedKey []byte

func (k hashedKey) Format(s fmt.State, _ rune) {
	h := fnv.New64a()
	h.Write(k)
	fmt.Fprintf(s, "#%016x(%d)", h.Sum64(), len(k))
}
