package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/seal"
)

// The payload of a frame is a sequence of records (FORMAT.md):
//
//	type (1 byte), length of the body (uvarint), body
//
// All numbers in bodies are uvarints unless a width is given.
const (
	recordBegin     = 1 // format version (1 byte), segment number, frames and last tag (16 bytes) of the predecessor
	recordEntries   = 2 // index of the first entry, then for each entry: term, type (1 byte), data
	recordHardState = 3 // term, vote, commit
	recordAnchor    = 4 // length and bytes of the MANIFEST's name, its frames, its last tag (16 bytes), durable applied index, keyring generation
	recordCut       = 5 // floor: index, term, first segment that is needed
	recordExpect    = 6 // index and term of a leader's snapshot that is about to be installed
	recordReset     = 7 // floor, as for a cut; and every entry before this record is dropped
)

// formatVersion is raised when an older reader would misread the records.
const formatVersion = 1

// A floor is where the log begins: entries up to index are gone, the term of entry index is kept because raft
// matches against it, and no segment before firstSegment is needed.
type floor struct {
	index, term  uint64
	firstSegment uint64
}

// begin is the first record of a segment. It makes the chain: whoever drops, swaps or replaces a segment has to
// forge the next one's.
type begin struct {
	segment     uint64
	predecessor seal.Tail // zero for segment 1
}

// A record is what visitRecords decodes: exactly one of the fields is set.
type record struct {
	begin     *begin
	entries   *entries
	hardState *raftpb.HardState
	anchor    *Anchor
	cut       *floor
	expect    *snapshot
	reset     *floor
}

// entries is an entries record that is well formed, not yet decoded: body holds, for each of the n entries from
// index first on, its term, type and data.
type entries struct {
	first uint64
	n     int
	body  []byte
}

func appendRecord(b []byte, typ byte, body []byte) []byte {
	b = append(b, typ)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendBegin(b []byte, r begin) []byte {
	body := append(make([]byte, 0, 48), formatVersion)
	body = binary.AppendUvarint(body, r.segment)
	body = binary.AppendUvarint(body, r.predecessor.Frames)
	body = append(body, r.predecessor.Tag[:]...)
	return appendRecord(b, recordBegin, body)
}

func appendHardState(b []byte, hs *raftpb.HardState) []byte {
	body := binary.AppendUvarint(make([]byte, 0, 3*binary.MaxVarintLen64), hs.GetTerm())
	body = binary.AppendUvarint(body, hs.GetVote())
	body = binary.AppendUvarint(body, hs.GetCommit())
	return appendRecord(b, recordHardState, body)
}

func appendAnchor(b []byte, a Anchor) []byte {
	body := binary.AppendUvarint(make([]byte, 0, 96), uint64(len(a.Manifest)))
	body = append(body, a.Manifest...)
	body = binary.AppendUvarint(body, a.Tail.Frames)
	body = append(body, a.Tail.Tag[:]...)
	body = binary.AppendUvarint(body, a.DurableApplied)
	body = binary.AppendUvarint(body, a.KeyringGeneration)
	return appendRecord(b, recordAnchor, body)
}

// appendFloor appends f as a record of type recordCut or recordReset.
func appendFloor(b []byte, typ byte, f floor) []byte {
	body := binary.AppendUvarint(make([]byte, 0, 3*binary.MaxVarintLen64), f.index)
	body = binary.AppendUvarint(body, f.term)
	body = binary.AppendUvarint(body, f.firstSegment)
	return appendRecord(b, typ, body)
}

func appendExpect(b []byte, s *snapshot) []byte {
	body := binary.AppendUvarint(make([]byte, 0, 2*binary.MaxVarintLen64), s.index)
	return appendRecord(b, recordExpect, binary.AppendUvarint(body, s.term))
}

// appendEntries appends ents, whose indexes follow each other, as one record. The entries' data is copied once.
func appendEntries(b []byte, ents []*raftpb.Entry) []byte {
	first := ents[0].GetIndex()
	n := uvarintLen(first)
	for _, e := range ents {
		n += uvarintLen(e.GetTerm()) + 1 + uvarintLen(dataField(e)) + len(e.Data)
	}
	b = append(b, recordEntries)
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, first)
	for _, e := range ents {
		b = binary.AppendUvarint(b, e.GetTerm())
		b = append(b, typeField(e))
		b = binary.AppendUvarint(b, dataField(e))
		b = append(b, e.Data...)
	}
	return b
}

// typeField and dataField keep the difference between a field that is not set and one that is zero, so that an
// entry read back is, to the byte, the message that was written.
func typeField(e *raftpb.Entry) byte {
	if e.Type == nil {
		return 0
	}
	return byte(*e.Type) + 1
}

func dataField(e *raftpb.Entry) uint64 {
	if e.Data == nil {
		return 0
	}
	return uint64(len(e.Data)) + 1
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// errMalformed is wrapped by every error of the decoder. A frame that opens was written by this member, so it
// means a newer format or a bug, not a flipped bit.
var errMalformed = errors.New("malformed record")

// visitRecords decodes payload and calls fn for each record. What fn gets aliases payload only through
// entries.body.
func visitRecords(payload []byte, fn func(record) error) error {
	for len(payload) > 0 {
		typ := payload[0]
		d := decoder{b: payload[1:]}
		n := d.uvarint()
		if d.failed || n > uint64(len(d.b)) {
			return fmt.Errorf("%w: type %d is longer than its frame", errMalformed, typ)
		}
		body := decoder{b: d.b[:n]}
		payload = d.b[n:]
		r, err := body.record(typ)
		if err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) record(typ byte) (record, error) {
	var r record
	switch typ {
	case recordBegin:
		if v := d.byte(); !d.failed && v != formatVersion {
			return r, fmt.Errorf("%w: format version %d, this program reads version %d", errMalformed, v, formatVersion)
		}
		r.begin = &begin{segment: d.uvarint(), predecessor: d.tail()}
	case recordEntries:
		r.entries = &entries{first: d.uvarint(), body: d.b}
		for len(d.b) > 0 && !d.failed {
			d.uvarint()
			if typ := d.byte(); typ > byte(raftpb.EntryConfChangeV2)+1 {
				return r, fmt.Errorf("%w: entry of type %d", errMalformed, typ)
			}
			d.data()
			r.entries.n++
		}
		if e := r.entries; e.n == 0 || e.first == 0 || e.last()+1 < e.first {
			d.failed = true
		}
	case recordHardState:
		term, vote, commit := d.uvarint(), d.uvarint(), d.uvarint()
		r.hardState = &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
	case recordAnchor:
		name := d.bytes(d.uvarint())
		r.anchor = &Anchor{Manifest: string(name), Tail: d.tail(), DurableApplied: d.uvarint(), KeyringGeneration: d.uvarint()}
	case recordCut:
		r.cut = &floor{index: d.uvarint(), term: d.uvarint(), firstSegment: d.uvarint()}
	case recordExpect:
		r.expect = &snapshot{index: d.uvarint(), term: d.uvarint()}
	case recordReset:
		r.reset = &floor{index: d.uvarint(), term: d.uvarint(), firstSegment: d.uvarint()}
	default:
		return r, fmt.Errorf("%w: unknown type %d; it may have been written by a newer version", errMalformed, typ)
	}
	if d.failed || len(d.b) > 0 {
		return r, fmt.Errorf("%w: type %d", errMalformed, typ)
	}
	return r, nil
}

// last returns the index of the last entry.
func (r *entries) last() uint64 { return r.first + uint64(r.n) - 1 }

// terms returns the entries' terms.
func (r *entries) terms() []run {
	var runs []run
	d := decoder{b: r.body}
	for i := range r.n {
		runs = appendRun(runs, r.first+uint64(i), d.uvarint())
		d.byte()
		d.data()
	}
	return runs
}

// appendRun extends runs by an entry.
func appendRun(runs []run, index, term uint64) []run {
	if n := len(runs); n > 0 && runs[n-1].term == term {
		return runs
	}
	return append(runs, run{first: index, term: term})
}

// decode returns the entries. Their data aliases the frame's payload.
func (r *entries) decode() []*raftpb.Entry {
	// One allocation for each kind of thing, not for each entry.
	store := make([]struct {
		e           raftpb.Entry
		term, index uint64
		typ         raftpb.EntryType
	}, r.n)
	ents := make([]*raftpb.Entry, r.n)
	d := decoder{b: r.body}
	for i := range store {
		s := &store[i]
		s.term, s.index = d.uvarint(), r.first+uint64(i)
		s.e.Term, s.e.Index = &s.term, &s.index
		if typ := d.byte(); typ > 0 {
			s.typ = raftpb.EntryType(typ - 1)
			s.e.Type = &s.typ
		}
		s.e.Data = d.data()
		ents[i] = &s.e
	}
	return ents
}

// A decoder takes fields off the front of b. Once one is malformed, failed is set and all further ones are zero.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n != uvarintLen(v) || d.failed {
		d.failed = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if d.failed || n > uint64(len(d.b)) {
		d.failed = true
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) data() []byte {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	return d.bytes(n - 1)
}

func (d *decoder) tail() seal.Tail {
	t := seal.Tail{Frames: d.uvarint()}
	copy(t.Tag[:], d.bytes(uint64(len(t.Tag))))
	return t
}
