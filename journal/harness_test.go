package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/seal"
)

// long says whether COFFER_LONG=1 asks for the long form of the tests.
func long() bool { return os.Getenv("COFFER_LONG") == "1" }

const testDir = "data/journal"

// smallSegments makes segments so small that a test goes through many: 16 KiB, then 32.
const smallSegments = 32 << 10

func newKeyring(t testing.TB) *keyring.Keyring {
	t.Helper()
	kek, err := kms.Create("file:" + filepath.Join(t.TempDir(), "kek"))
	require.NoError(t, err)
	t.Cleanup(func() { kek.Close() })
	kr, err := keyring.Create(vfs.NewMem(), "KEYRING", keyring.Member{ClusterID: 1, MemberID: 2}, kek)
	require.NoError(t, err)
	t.Cleanup(kr.Close)
	return kr
}

// openOn opens the journal on base with small segments and a cache that holds hardly anything.
func openOn(base vfs.FS, kr *keyring.Keyring) (*Journal, error) {
	j, err := Open(Options{FS: seal.New(base, kr, seal.Options{}), Dir: testDir, SegmentSize: smallSegments})
	if err == nil {
		j.cache.bound = 4 << 10
	}
	return j, err
}

func mustOpen(t testing.TB, base vfs.FS, kr *keyring.Keyring) *Journal {
	t.Helper()
	j, err := openOn(base, kr)
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func entry(index, term uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: data}
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

// fill appends n entries of size bytes each, one a frame, and commits them.
func fill(t testing.TB, j *Journal, n, size int) {
	t.Helper()
	for range n {
		i := j.LastIndex() + 1
		require.NoError(t, j.Append([]*raftpb.Entry{entry(i, 1, make([]byte, size))}, hardState(1, 1, i), true))
	}
}

// cut writes an anchor for index and cuts there.
func cut(t testing.TB, j *Journal, index uint64) {
	t.Helper()
	require.NoError(t, j.WriteAnchor(Anchor{Manifest: "MANIFEST-000001", DurableApplied: index}))
	require.NoError(t, j.Cut(index))
}

// contents returns every file of the journal.
func contents(t testing.TB, disk *vfs.MemFS) map[string][]byte {
	t.Helper()
	names, err := disk.List(testDir)
	require.NoError(t, err)
	files := make(map[string][]byte)
	for _, name := range names {
		f, err := disk.Open(testDir + "/" + name)
		if oserror.IsNotExist(err) {
			continue // removed or renamed meanwhile
		}
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		b := make([]byte, info.Size())
		if _, err := f.ReadAt(b, 0); err != io.EOF {
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		files[name] = b
	}
	return files
}

// diskWith returns a disk that holds files, durably.
func diskWith(files map[string][]byte) *vfs.MemFS {
	disk := vfs.NewCrashableMem()
	err := disk.MkdirAll(testDir, 0o700)
	for name, b := range files {
		f, createErr := disk.Create(testDir+"/"+name, vfs.WriteCategoryUnspecified)
		if createErr != nil {
			panic(createErr)
		}
		_, writeErr := f.Write(b)
		err = errors.Join(err, writeErr, f.Sync(), f.Close())
	}
	for _, dir := range []string{testDir, "data", "/"} {
		d, openErr := disk.OpenDir(dir)
		if openErr != nil {
			panic(openErr)
		}
		err = errors.Join(err, d.Sync(), d.Close())
	}
	if err != nil {
		panic(err)
	}
	return disk
}

// A model is what a journal has to say.
type model struct {
	entries      map[uint64]*raftpb.Entry // all that were ever appended and not replaced or reset, cut ones too
	terms        map[uint64]uint64        // of these, and of indexes that were reset to
	first, last  uint64
	durableFirst uint64 // first may be this low again after a crash
	hs           *raftpb.HardState
	commit       uint64 // hs.Commit may be this low again after a crash
	anchor       Anchor
	expected     snapshot
}

func newModel() *model {
	return &model{entries: map[uint64]*raftpb.Entry{}, terms: map[uint64]uint64{0: 0}, first: 1, durableFirst: 1}
}

func (m *model) clone() *model {
	c := *m
	c.entries, c.terms = maps.Clone(m.entries), maps.Clone(m.terms)
	return &c
}

// compare returns how j, just opened, differs from m.
func (m *model) compare(j *Journal) error {
	if got := j.LastIndex(); got != m.last {
		return fmt.Errorf("last index %d, want %d", got, m.last)
	}
	first := j.FirstIndex()
	if first < m.durableFirst || first > m.first {
		return fmt.Errorf("first index %d, want %d to %d", first, m.durableFirst, m.first)
	}
	for i := first - 1; i <= m.last; i++ {
		if got, err := j.Term(i); err != nil || got != m.terms[i] {
			return fmt.Errorf("term of %d: %d, %v; want %d", i, got, err, m.terms[i])
		}
	}
	if first <= m.last {
		got, err := j.Entries(first, m.last+1, ^uint64(0))
		if err != nil || len(got) != int(m.last+1-first) {
			return fmt.Errorf("entries %d to %d: %d of them, %v", first, m.last, len(got), err)
		}
		for i, e := range got {
			if want := m.entries[first+uint64(i)]; !proto.Equal(e, want) {
				return fmt.Errorf("entry %d differs", first+uint64(i))
			}
		}
	}
	hs := j.HardState()
	if hs.GetTerm() != m.hs.GetTerm() || hs.GetVote() != m.hs.GetVote() || hs.GetCommit() < m.commit || hs.GetCommit() > m.hs.GetCommit() {
		return fmt.Errorf("hard state %v, want %v, or a commit index from %d on", hs, m.hs, m.commit)
	}
	if a, _ := j.Anchor(); a != m.anchor {
		return fmt.Errorf("anchor %+v, want %+v", a, m.anchor)
	}
	if i, term, _ := j.Expected(); (snapshot{i, term}) != m.expected {
		return fmt.Errorf("expected snapshot %d, %d, want %+v", i, term, m.expected)
	}
	return nil
}

// An op is one call to a journal: do makes it, and the model is what it leads to.
type op struct {
	name string
	do   func(j *Journal) error
}

// randomOp chooses what raft could ask for next in state m, and changes m accordingly.
func randomOp(rng *rand.Rand, m *model, kr *keyring.Keyring) op {
	term := max(m.hs.GetTerm(), 1)
	switch n := rng.IntN(100); {
	case n < 45 || m.last == 0:
		return m.append(rng, m.last+1, term)
	case n < 55 && m.last > m.hs.GetCommit(): // another leader has other entries
		first := m.hs.GetCommit() + 1 + rng.Uint64N(m.last-m.hs.GetCommit())
		return m.append(rng, first, term+1)
	case n < 65: // a vote
		hs := hardState(term+rng.Uint64N(2), rng.Uint64N(4), m.hs.GetCommit())
		m.hs, m.commit = hs, hs.GetCommit()
		return op{"vote", func(j *Journal) error { return j.Append(nil, hs, true) }}
	case n < 78: // only the commit index moves
		hs := hardState(m.hs.GetTerm(), m.hs.GetVote(), m.hs.GetCommit()+rng.Uint64N(m.last-m.hs.GetCommit()+1))
		m.hs = hs
		return op{"commit", func(j *Journal) error { return j.Append(nil, hs, false) }}
	case n < 84:
		a := Anchor{
			Manifest: fmt.Sprintf("MANIFEST-%06d", rng.IntN(100)), Tail: seal.Tail{Frames: rng.Uint64N(1000), Tag: [16]byte{byte(n)}},
			DurableApplied: m.hs.GetCommit(), KeyringGeneration: rng.Uint64N(10),
		}
		m.anchor = a
		return op{"anchor", func(j *Journal) error { return j.WriteAnchor(a) }}
	case n < 94:
		if m.anchor.DurableApplied < m.first {
			return m.append(rng, m.last+1, term)
		}
		index := m.first + rng.Uint64N(m.anchor.DurableApplied-m.first+1)
		m.first = index + 1
		return op{"cut", func(j *Journal) error { return j.Cut(index) }}
	case n < 96:
		s := snapshot{index: m.last + rng.Uint64N(100), term: term}
		m.expected = s
		return op{"expect", func(j *Journal) error { return j.Expect(s.index, s.term) }}
	case n < 98 && m.expected.index > m.hs.GetCommit():
		s := m.expected
		m.hs = hardState(max(term, s.term), m.hs.GetVote(), s.index)
		m.entries, m.terms = map[uint64]*raftpb.Entry{}, map[uint64]uint64{s.index: s.term}
		m.first, m.durableFirst, m.last, m.commit, m.expected = s.index+1, s.index+1, s.index, s.index, snapshot{}
		return op{"reset", func(j *Journal) error { return j.Reset(s.index, s.term) }}
	default:
		roll := rng.IntN(2) == 0
		return op{"rotate", func(j *Journal) error {
			if _, err := kr.Rotate(); err != nil {
				return err
			}
			if roll {
				return j.Roll()
			}
			return j.fs.ResealAll(context.Background(), nil, testDir)
		}}
	}
}

// append appends up to five entries from index first on, and a hard state.
func (m *model) append(rng *rand.Rand, first, term uint64) op {
	for i := first; i <= m.last; i++ {
		delete(m.entries, i)
		delete(m.terms, i)
	}
	var ents []*raftpb.Entry
	for i := first; i <= first+rng.Uint64N(5); i++ {
		data := make([]byte, rng.IntN(2000))
		if rng.IntN(100) == 0 {
			data = make([]byte, 40<<10) // more than a segment holds
		}
		for k := range data {
			data[k] = byte(rng.Uint32())
		}
		e := entry(i, term, data)
		ents = append(ents, e)
		m.entries[i], m.terms[i], m.last = e, term, i
	}
	hs := m.hs
	if term != hs.GetTerm() || rng.IntN(2) == 0 {
		vote := hs.GetVote()
		if term != hs.GetTerm() {
			vote = 0
		}
		hs = hardState(term, vote, hs.GetCommit()+rng.Uint64N(m.last-hs.GetCommit()+1))
	}
	m.hs, m.commit = hs, hs.GetCommit()
	return op{"append", func(j *Journal) error { return j.Append(ents, hs, true) }}
}
