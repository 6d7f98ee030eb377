package journal

import (
	"sort"

	"go.etcd.io/raft/v3"

	"github.com/cofferkv/coffer/seal"
)

// A table knows, for every entry above the floor, its term and the frame that holds it. Its size depends on the
// number of frames and of changes of term, not of entries.
type table struct {
	floor floor
	last  uint64     // index of the last entry; floor.index if there is none
	terms []run      // terms[i] holds from its first entry to the one before terms[i+1]'s
	refs  []frameRef // refs[i] likewise
}

// A run is a range of entries of one term.
type run struct{ first, term uint64 }

// A frameRef says where the entries from index first on are.
type frameRef struct {
	first uint64
	seg   *segment
	frame seal.Frame
}

func (t *table) term(i uint64) (uint64, error) {
	switch {
	case i < t.floor.index:
		return 0, raft.ErrCompacted
	case i > t.last:
		return 0, raft.ErrUnavailable
	case i == t.floor.index:
		return t.floor.term, nil
	}
	n := sort.Search(len(t.terms), func(n int) bool { return t.terms[n].first > i })
	return t.terms[n-1].term, nil
}

// find returns the position in refs of the frame that holds entry i.
func (t *table) find(i uint64) int {
	return sort.Search(len(t.refs), func(n int) bool { return t.refs[n].first > i }) - 1
}

// truncate drops the entries from index i on, i > floor.index.
func (t *table) truncate(i uint64) {
	if i > t.last {
		return
	}
	t.terms = t.terms[:sort.Search(len(t.terms), func(n int) bool { return t.terms[n].first >= i })]
	t.refs = t.refs[:sort.Search(len(t.refs), func(n int) bool { return t.refs[n].first >= i })]
	t.last = i - 1
}

// add records that the frame at ref holds the entries from ref.first to last, whose terms runs gives. They replace
// what there was from ref.first on. Those at or below the floor are left out.
func (t *table) add(ref frameRef, last uint64, runs []run) {
	ref.first = max(ref.first, t.floor.index+1)
	t.truncate(ref.first)
	if ref.first > last {
		return
	}
	t.refs = append(t.refs, ref)
	for i, r := range runs {
		if i+1 < len(runs) && runs[i+1].first <= ref.first {
			continue // all of it is below
		}
		if k := len(t.terms); k == 0 || t.terms[k-1].term != r.term {
			t.terms = append(t.terms, run{first: max(r.first, ref.first), term: r.term})
		}
	}
	t.last = last
}

// raise lifts the floor to f, whose index is not below the present one nor above last.
func (t *table) raise(f floor) {
	t.floor = f
	if f.index == t.last {
		t.refs, t.terms = nil, nil
		return
	}
	// Copied, so that what is dropped does not stay in memory.
	t.refs = append([]frameRef(nil), t.refs[t.find(f.index+1):]...)
	n := sort.Search(len(t.terms), func(n int) bool { return t.terms[n].first > f.index+1 })
	t.terms = append([]run(nil), t.terms[n-1:]...)
}

// reset drops everything: the log begins anew behind f.
func (t *table) reset(f floor) {
	*t = table{floor: f, last: f.index}
}
