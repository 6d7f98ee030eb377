package mvcc

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func FuzzMessagesAreThoseOfProtobuf(f *testing.F) {
	f.Add([]byte("k"), []byte("v"), int64(2), int64(3), int64(1), int64(0))
	f.Add([]byte("key"), []byte{}, int64(0), int64(1)<<62, int64(-1), int64(-1)<<63)
	f.Fuzz(func(t *testing.T, key, value []byte, create, mod, version, lease int64) {
		kv := &mvccpb.KeyValue{
			Key: key, Value: value, CreateRevision: create, ModRevision: mod, Version: version, Lease: lease,
		}
		want, err := proto.Marshal(kv)
		require.NoError(t, err)
		raw := appendMessage(nil, key, value, Meta{Create: create, Mod: Rev{Main: mod}, Version: version, Lease: lease})
		require.True(t, bytes.Equal(want, raw))
		require.LessOrEqual(t, len(raw), messageLen(key, value))
		got := new(mvccpb.KeyValue)
		require.NoError(t, decodeMessage(raw, got))
		require.True(t, proto.Equal(kv, got))
	})
}

func FuzzDecodedMessagesAreWhatProtobufReads(f *testing.F) {
	f.Add(appendMessage(nil, []byte("k"), []byte("v"), Meta{Create: 2, Mod: Rev{Main: 3}, Version: 1, Lease: 9}))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := new(mvccpb.KeyValue)
		if decodeMessage(raw, got) != nil {
			return
		}
		want := new(mvccpb.KeyValue)
		require.NoError(t, proto.Unmarshal(raw, want))
		require.True(t, proto.Equal(want, got))
	})
}

func FuzzChanges(f *testing.F) {
	f.Add(appendChange(nil, &change{key: []byte("k"), prev: Rev{3, 1}, crc: 7, length: 90}, 5), int64(5))
	f.Add(appendChange(nil, &change{key: []byte("k"), tombstone: true, prev: Rev{5, 0}}, 5), int64(5))
	f.Fuzz(func(t *testing.T, b []byte, main int64) {
		c, err := decodeChange(b, main)
		if err != nil {
			return
		}
		again, err := decodeChange(appendChange(nil, &c, main), main)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func FuzzStreams(f *testing.F) {
	f.Add([]byte(streamMagic))
	f.Add([]byte(streamMagic + "\x03a\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newStreamReader(bytes.NewReader(b))
		var last []byte
		for {
			key, _, err := r.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				require.ErrorIs(t, err, errStream)
				return
			}
			if checkStored(key, last) == nil {
				last = append(last[:0], key...)
			}
		}
	})
}
