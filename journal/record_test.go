package journal

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/seal"
)

// sampleEntries are entries in which every optional field is at least once absent, zero and set.
func sampleEntries() []*raftpb.Entry {
	return []*raftpb.Entry{
		{Term: new(uint64(1)), Index: new(uint64(7))},
		{Term: new(uint64(1)), Index: new(uint64(8)), Type: raftpb.EntryNormal.Enum(), Data: []byte{}},
		{Term: new(uint64(300)), Index: new(uint64(9)), Type: raftpb.EntryConfChange.Enum(), Data: []byte("x")},
		{Term: new(uint64(1 << 40)), Index: new(uint64(10)), Type: raftpb.EntryConfChangeV2.Enum(), Data: bytes.Repeat([]byte("y"), 1000)},
	}
}

func sampleRecords() []byte {
	var b []byte
	b = appendBegin(b, begin{segment: 3, predecessor: seal.Tail{Frames: 900, Tag: [16]byte{1, 2, 3}}})
	b = appendHardState(b, &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(1 << 63)), Commit: new(uint64(6))})
	b = appendAnchor(b, Anchor{Manifest: "MANIFEST-000001", Tail: seal.Tail{Frames: 2, Tag: [16]byte{9}}, DurableApplied: 5, KeyringGeneration: 4})
	b = appendFloor(b, recordCut, floor{index: 4, term: 2, firstSegment: 2})
	b = appendExpect(b, &snapshot{index: 6, term: 3})
	b = appendFloor(b, recordReset, floor{index: 6, term: 3, firstSegment: 3})
	return appendEntries(b, sampleEntries())
}

func TestRecordsReadBackAsWritten(t *testing.T) {
	var again []byte
	var got []*raftpb.Entry
	require.NoError(t, visitRecords(sampleRecords(), func(r record) error {
		again = reencode(again, r)
		if r.entries != nil {
			got = r.entries.decode()
		}
		return nil
	}))
	require.Equal(t, sampleRecords(), again)
	for i, want := range sampleEntries() {
		require.True(t, proto.Equal(want, got[i]), "entry %d", i)
		require.Equal(t, want.Data == nil, got[i].Data == nil, "entry %d", i)
		require.Equal(t, uint64(proto.Size(want)), wireSize(want))
	}
}

// TestRecordVectors holds the encoding to FORMAT.md.
func TestRecordVectors(t *testing.T) {
	tag := [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}
	const tagHex = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
	for _, v := range []struct {
		got  []byte
		want string
	}{
		{appendBegin(nil, begin{segment: 300, predecessor: seal.Tail{Frames: 2, Tag: tag}}), "01" + "14" + "01" + "ac02" + "02" + tagHex},
		{appendEntries(nil, sampleEntries()[:3]), "02" + "0c" + "07" + "010000" + "010101" + "ac02020278"},
		{appendHardState(nil, hardState(1, 128, 3)), "03" + "04" + "01" + "8001" + "03"},
		{appendAnchor(nil, Anchor{Manifest: "M", Tail: seal.Tail{Frames: 5, Tag: tag}, DurableApplied: 6, KeyringGeneration: 7}),
			"04" + "15" + "014d" + "05" + tagHex + "06" + "07"},
		{appendFloor(nil, recordCut, floor{index: 1, term: 2, firstSegment: 3}), "05" + "03" + "010203"},
		{appendExpect(nil, &snapshot{index: 4, term: 5}), "06" + "02" + "0405"},
		{appendFloor(nil, recordReset, floor{index: 1, term: 2, firstSegment: 3}), "07" + "03" + "010203"},
	} {
		require.Equal(t, v.want, hex.EncodeToString(v.got))
	}
}

func TestARecordCutAnywhereIsRefused(t *testing.T) {
	whole := sampleRecords()
	var ends []int // of records, where a cut leaves a well-formed sequence
	for b := whole; len(b) > 0; {
		d := decoder{b: b[1:]}
		n := d.uvarint()
		b = d.b[n:]
		ends = append(ends, len(whole)-len(b))
	}
	for cut := 1; cut < len(whole); cut++ {
		err := visitRecords(whole[:cut], func(record) error { return nil })
		if len(ends) > 0 && cut == ends[0] {
			ends = ends[1:]
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, errMalformed, "cut at %d", cut)
	}
}

func TestANewerFormatIsNamed(t *testing.T) {
	b := appendBegin(nil, begin{segment: 1})
	b[2]++
	require.ErrorContains(t, visitRecords(b, func(record) error { return nil }), "format version 2")
	require.ErrorContains(t, visitRecords([]byte{99, 0}, func(record) error { return nil }), "newer version")
}

// FuzzRecords: no input makes the decoder panic, and what it accepts has exactly one encoding.
func FuzzRecords(f *testing.F) {
	f.Add(sampleRecords())
	f.Add([]byte{recordEntries, 3, 1, 1, 0, 1})
	f.Add([]byte{recordHardState, 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		err := visitRecords(b, func(r record) error {
			again = reencode(again, r)
			return nil
		})
		if err == nil && !bytes.Equal(b, again) {
			t.Fatalf("%x was read as %x", b, again)
		}
	})
}

func reencode(b []byte, r record) []byte {
	switch {
	case r.begin != nil:
		return appendBegin(b, *r.begin)
	case r.entries != nil:
		return appendEntries(b, r.entries.decode())
	case r.hardState != nil:
		return appendHardState(b, r.hardState)
	case r.anchor != nil:
		return appendAnchor(b, *r.anchor)
	case r.cut != nil:
		return appendFloor(b, recordCut, *r.cut)
	case r.expect != nil:
		return appendExpect(b, r.expect)
	default:
		return appendFloor(b, recordReset, *r.reset)
	}
}
