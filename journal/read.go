package journal

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// HardState returns the last hard state appended; nil if there never was one. It must not be changed.
func (j *Journal) HardState() *raftpb.HardState {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.hardState
}

// FirstIndex returns the index of the first entry that Entries can return. If there is none it is LastIndex()+1.
func (j *Journal) FirstIndex() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.table.floor.index + 1
}

// LastIndex returns the index of the last entry, all of which are durable.
func (j *Journal) LastIndex() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.table.last
}

// Term returns the term of entry i, FirstIndex()-1 <= i <= LastIndex(); else raft.ErrCompacted or
// raft.ErrUnavailable, as raft.Storage wants.
func (j *Journal) Term(i uint64) (uint64, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.table.term(i)
}

// Anchor returns the newest anchor, if there is one.
func (j *Journal) Anchor() (Anchor, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.state.anchor == nil {
		return Anchor{}, false
	}
	return *j.state.anchor, true
}

// Expected returns what the last Expect named, if no Reset has followed it.
func (j *Journal) Expected() (index, term uint64, ok bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if s := j.state.expected; s != nil {
		return s.index, s.term, true
	}
	return 0, 0, false
}

// Entries returns entries lo to hi-1, or as many of them from lo on as have a total size of at most maxSize bytes
// as protobuf messages, but at least one. The slice is the caller's; the entries in it are shared and must not be
// changed. Errors are raft.ErrCompacted, raft.ErrUnavailable, and those of reading a segment.
//
// The newest entries come from memory, older ones from their segments; no lock that an append waits for is held
// meanwhile.
func (j *Journal) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	j.mu.RLock()
	switch {
	case lo <= j.state.table.floor.index:
		j.mu.RUnlock()
		return nil, raft.ErrCompacted
	case lo >= hi || hi > j.state.table.last+1:
		j.mu.RUnlock()
		return nil, raft.ErrUnavailable
	}
	cached := max(lo, min(hi, j.cache.first()))
	var ents []*raftpb.Entry
	if cached < hi {
		ents = append(ents, j.cache.slice(cached, hi)...)
	}
	var refs []frameRef
	if lo < cached {
		refs = append(refs, j.state.table.refs[j.state.table.find(lo):j.state.table.find(cached-1)+1]...)
	}
	j.mu.RUnlock()

	if len(refs) > 0 {
		old, err := readFrames(refs, lo, cached, maxSize)
		if err != nil || uint64(len(old)) < cached-lo {
			return old, err
		}
		ents = append(old, ents...)
	}
	return limitSize(ents, maxSize), nil
}

// readFrames returns entries lo to hi-1 out of the frames at refs, and stops after the frame with which they
// exceed maxSize bytes.
func readFrames(refs []frameRef, lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	var ents []*raftpb.Entry
	var size uint64
	for i, ref := range refs {
		end := hi
		if i+1 < len(refs) {
			end = refs[i+1].first
		}
		got, err := ref.read(lo, end)
		if err != nil {
			return nil, err
		}
		for _, e := range got {
			size += wireSize(e)
		}
		ents = append(ents, got...)
		lo = end
		if size > maxSize {
			break
		}
	}
	return limitSize(ents, maxSize), nil
}

// read returns entries lo to hi-1 of the frame at ref.
func (ref frameRef) read(lo, hi uint64) ([]*raftpb.Entry, error) {
	payload, err := ref.seg.readFrame(ref.frame)
	if err != nil {
		return nil, err
	}
	return ref.decode(payload, lo, hi)
}

// decode returns entries lo to hi-1 out of the payload of the frame at ref, which they alias.
func (ref frameRef) decode(payload []byte, lo, hi uint64) ([]*raftpb.Entry, error) {
	var ents []*raftpb.Entry
	err := visitRecords(payload, func(r record) error {
		if r.entries == nil {
			return nil
		}
		if lo < r.entries.first || hi-1 > r.entries.last() {
			return fmt.Errorf("it holds entries %d to %d, not %d to %d", r.entries.first, r.entries.last(), lo, hi-1)
		}
		ents = r.entries.decode()[lo-r.entries.first : hi-r.entries.first]
		return nil
	})
	if err == nil && ents == nil {
		err = fmt.Errorf("it holds no entries")
	}
	if err != nil {
		return nil, fmt.Errorf("journal: reading entries of %s at offset %d: %w", ref.seg.path, ref.frame.Offset, err)
	}
	return ents, nil
}

// limitSize returns as many entries from the front of ents as have at most maxSize bytes, but at least one.
func limitSize(ents []*raftpb.Entry, maxSize uint64) []*raftpb.Entry {
	var size uint64
	for i, e := range ents {
		if size += wireSize(e); size > maxSize && i > 0 {
			return ents[:i]
		}
	}
	return ents
}
