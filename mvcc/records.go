package mvcc

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Field tags of mvccpb.KeyValue in wire encoding: field number << 3 | wire type.
const (
	tagKey     = 1<<3 | 2
	tagCreate  = 2 << 3
	tagMod     = 3 << 3
	tagVersion = 4 << 3
	tagValue   = 5<<3 | 2
	tagLease   = 6 << 3
)

var errRecord = errors.New("mvcc: malformed record")

// appendMessage appends a KeyValue in wire encoding: fields ascending, those that are zero left out, exactly as the
// protobuf library does it, because HashKV covers these bytes and clients are sent them.
func appendMessage(dst, key, value []byte, m Meta) []byte {
	if len(key) > 0 {
		dst = append(dst, tagKey)
		dst = binary.AppendUvarint(dst, uint64(len(key)))
		dst = append(dst, key...)
	}
	dst = appendField(dst, tagCreate, m.Create)
	dst = appendField(dst, tagMod, m.Mod.Main)
	dst = appendField(dst, tagVersion, m.Version)
	if len(value) > 0 {
		dst = append(dst, tagValue)
		dst = binary.AppendUvarint(dst, uint64(len(value)))
		dst = append(dst, value...)
	}
	return appendField(dst, tagLease, m.Lease)
}

func appendField(dst []byte, tag byte, v int64) []byte {
	if v == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, tag), uint64(v))
}

// messageLen returns an upper bound of the length of the encoded message.
func messageLen(key, value []byte) int {
	return len(key) + len(value) + 2*(1+binary.MaxVarintLen32) + 4*(1+binary.MaxVarintLen64)
}

// decodeMessage parses what appendMessage wrote into kv, whose slices then share memory with raw. Unknown fields are an
// error: nothing but appendMessage writes these records.
func decodeMessage(raw []byte, kv *mvccpb.KeyValue) error {
	for len(raw) > 0 {
		tag := raw[0]
		v, n := binary.Uvarint(raw[1:])
		if n <= 0 {
			return errRecord
		}
		raw = raw[1+n:]
		switch tag {
		case tagCreate:
			kv.CreateRevision = int64(v)
		case tagMod:
			kv.ModRevision = int64(v)
		case tagVersion:
			kv.Version = int64(v)
		case tagLease:
			kv.Lease = int64(v)
		case tagKey, tagValue:
			if v > uint64(len(raw)) {
				return errRecord
			}
			if tag == tagKey {
				kv.Key = raw[:v:v]
			} else {
				kv.Value = raw[:v:v]
			}
			raw = raw[v:]
		default:
			return errRecord
		}
	}
	return nil
}

// change is the record of a change under its revision.
type change struct {
	key       []byte
	tombstone bool
	prev      Rev    // version that the change replaced or deleted; zero if the key did not exist
	crc       uint32 // CRC-32C of the message, length of the message: what HashKV needs of it
	length    int
}

const (
	changeTombstone = 1 << iota
	changeHasPrev
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendChange(dst []byte, c *change, main int64) []byte {
	flags := byte(0)
	if c.tombstone {
		flags |= changeTombstone
	}
	if c.prev != (Rev{}) {
		flags |= changeHasPrev
	}
	dst = append(dst, flags)
	if c.prev != (Rev{}) {
		dst = binary.AppendUvarint(dst, uint64(main-c.prev.Main))
		dst = binary.AppendUvarint(dst, uint64(c.prev.Sub))
	}
	if !c.tombstone {
		dst = binary.BigEndian.AppendUint32(dst, c.crc)
		dst = binary.AppendUvarint(dst, uint64(c.length))
	}
	return append(dst, c.key...)
}

// decodeChange parses the record of a change of revision main. The key shares memory with b.
func decodeChange(b []byte, main int64) (c change, err error) {
	if len(b) == 0 || b[0]&^(changeTombstone|changeHasPrev) != 0 {
		return c, errRecord
	}
	flags := b[0]
	b = b[1:]
	next := func() (v uint64) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err = errRecord
			return 0
		}
		b = b[n:]
		return v
	}
	c.tombstone = flags&changeTombstone != 0
	if flags&changeHasPrev != 0 {
		c.prev = Rev{Main: main - int64(next()), Sub: int32(next())}
		if c.prev.Main <= 0 || c.prev.Main > main || c.prev.Sub < 0 {
			return c, errRecord
		}
	}
	if !c.tombstone && err == nil {
		if len(b) < 4 {
			return c, errRecord
		}
		c.crc = binary.BigEndian.Uint32(b)
		b = b[4:]
		c.length = int(next())
	}
	if err == nil && len(b) == 0 {
		err = errRecord
	}
	c.key = b
	return c, err
}

// applied is the record that every batch writes: where the Raft log and the history stand with it.
type applied struct {
	index, term uint64
	revision    int64
	written     uint64 // bytes of all batches ever committed
}

func (a applied) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 32), a.index)
	b = binary.BigEndian.AppendUint64(b, a.term)
	b = binary.BigEndian.AppendUint64(b, uint64(a.revision))
	return binary.BigEndian.AppendUint64(b, a.written)
}

func decodeApplied(b []byte) (applied, error) {
	if len(b) != 32 {
		return applied{}, errRecord
	}
	return applied{
		index:    binary.BigEndian.Uint64(b),
		term:     binary.BigEndian.Uint64(b[8:]),
		revision: int64(binary.BigEndian.Uint64(b[16:])),
		written:  binary.BigEndian.Uint64(b[24:]),
	}, nil
}

// bucketStore holds the store's own records.
const bucketStore = "mvcc"

var (
	keyApplied   = []byte("applied")   // applied
	keyScheduled = []byte("scheduled") // revision of the last compaction, 8 bytes
	keyFinished  = []byte("finished")  // revision of the last compaction whose removal has ended, 8 bytes
	keyImporting = []byte("importing") // there while an import has not ended
)
