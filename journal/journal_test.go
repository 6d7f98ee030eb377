package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/seal"
)

// TestAnswersAsRaftsMemoryStorage makes random calls to a journal and to raft's own storage and compares every answer.
func TestAnswersAsRaftsMemoryStorage(t *testing.T) {
	kr := newKeyring(t)
	rounds := uint64(8)
	if long() {
		rounds = 60
	}
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(seed, 0))
		disk := vfs.NewMem()
		j := mustOpen(t, disk, kr)
		ms := raft.NewMemoryStorage()
		m := newModel()
		for range 300 {
			before := m.clone()
			o := randomOp(rng, m, kr)
			require.NoError(t, o.do(j), "seed %d: %s", seed, o.name)
			switch o.name {
			case "append":
				first := m.last
				for first > m.first && m.entries[first-1] != before.entries[first-1] {
					first--
				}
				var ents []*raftpb.Entry
				for i := first; i <= m.last; i++ {
					ents = append(ents, m.entries[i])
				}
				require.NoError(t, ms.Append(ents))
			case "cut":
				require.NoError(t, ms.Compact(m.first-1))
			case "reset":
				index, term := m.last, m.terms[m.last]
				if ms.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term}}) != nil {
					t.Fatal("the model's snapshot is out of date")
				}
			}
			sameAnswers(t, rng, j, ms)
			if rng.IntN(50) == 0 {
				require.NoError(t, j.Close())
				j = mustOpen(t, disk, kr)
				require.NoError(t, m.compare(j), "seed %d", seed)
				m.first = j.FirstIndex() // a cut that removed no file is not kept
				if first := m.first; first <= m.last {
					ms = storageOf(m)
				}
			}
		}
	}
}

// storageOf returns a storage with what m has.
func storageOf(m *model) *raft.MemoryStorage {
	ms := raft.NewMemoryStorage()
	index, term := m.first-1, m.terms[m.first-1]
	if index > 0 {
		ms.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term}})
	}
	for i := m.first; i <= m.last; i++ {
		ms.Append([]*raftpb.Entry{m.entries[i]})
	}
	return ms
}

func sameAnswers(t *testing.T, rng *rand.Rand, j *Journal, ms *raft.MemoryStorage) {
	t.Helper()
	first, _ := ms.FirstIndex()
	last, _ := ms.LastIndex()
	require.Equal(t, first, j.FirstIndex())
	require.Equal(t, last, j.LastIndex())
	for i := max(first, 3) - 3; i <= last+2; i++ {
		want, wantErr := ms.Term(i)
		got, err := j.Term(i)
		require.Equal(t, wantErr, err, "term of %d", i)
		require.Equal(t, want, got, "term of %d", i)
	}
	_, err := j.Entries(first-1, last+1, 1)
	require.Equal(t, raft.ErrCompacted, err)
	_, err = j.Entries(first, last+2, 1)
	require.Equal(t, raft.ErrUnavailable, err)
	if last < first {
		return
	}
	lo := first + rng.Uint64N(last-first+1)
	hi := lo + 1 + rng.Uint64N(last-lo+1)
	size := []uint64{0, rng.Uint64N(10_000), ^uint64(0)}[rng.IntN(3)]
	want, err := ms.Entries(lo, hi, size)
	require.NoError(t, err)
	got, err := j.Entries(lo, hi, size)
	require.NoError(t, err)
	require.Equal(t, len(want), len(got), "entries %d to %d, %d bytes", lo, hi, size)
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "entry %d", want[i].GetIndex())
	}
}

func TestWhatACutSegmentSaidIsNotLostWithIt(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	require.NoError(t, j.Append([]*raftpb.Entry{entry(1, 7, nil)}, hardState(7, 3, 1), true))
	anchor := Anchor{Manifest: "MANIFEST-000009", Tail: seal.Tail{Frames: 4, Tag: [16]byte{5}}, DurableApplied: 1000, KeyringGeneration: 6}
	require.NoError(t, j.WriteAnchor(anchor))
	require.NoError(t, j.Expect(2000, 8))
	for j.current().number < 4 {
		require.NoError(t, j.Append([]*raftpb.Entry{entry(j.LastIndex()+1, 7, make([]byte, 1000))}, nil, true))
	}
	index := j.LastIndex() - 1
	require.NoError(t, j.Cut(index))
	require.Len(t, j.segments, 1)
	require.NoError(t, j.Close())

	j = mustOpen(t, disk, kr)
	require.True(t, proto.Equal(hardState(7, 3, 1), j.HardState()))
	got, ok := j.Anchor()
	require.True(t, ok)
	require.Equal(t, anchor, got)
	i, term, ok := j.Expected()
	require.True(t, ok)
	require.Equal(t, []uint64{2000, 8}, []uint64{i, term})
	term, err := j.Term(index)
	require.NoError(t, err)
	require.EqualValues(t, 7, term)
	require.Equal(t, index+1, j.FirstIndex())
}

// TestEntriesThatWereReplacedMayStandAlone: after a cut, what is left may begin with entries whose predecessors are gone,
// as long as later ones have replaced them.
func TestEntriesThatWereReplacedMayStandAlone(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 9, 10)
	require.NoError(t, j.Append(nil, hardState(1, 1, 5), true))
	require.NoError(t, j.Close())
	j = mustOpen(t, disk, kr)
	require.NoError(t, j.Append([]*raftpb.Entry{entry(10, 1, nil)}, nil, true))
	require.NoError(t, j.Append([]*raftpb.Entry{entry(6, 2, nil), entry(7, 2, nil)}, nil, true))
	cut(t, j, 5)
	require.Len(t, j.segments, 1)
	require.NoError(t, j.Close())
	j = mustOpen(t, disk, kr)
	require.EqualValues(t, []uint64{6, 7}, []uint64{j.FirstIndex(), j.LastIndex()})

	// Without the later ones they are a gap.
	c, err := readChain(seal.New(disk, kr, seal.Options{}), testDir)
	require.NoError(t, err)
	for _, s := range c.segments {
		s.steps = slices.DeleteFunc(s.steps, func(st step) bool { return st.entries != nil && st.entries.first == 6 })
	}
	require.ErrorContains(t, c.replay(), "entry 10 follows entry 5")
}

func TestOpeningWritesNothing(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	require.NoError(t, mustOpen(t, disk, kr).Close())
	names, err := disk.List("")
	require.NoError(t, err)
	require.Empty(t, names)

	j := mustOpen(t, disk, kr)
	fill(t, j, 30, 1000)
	cut(t, j, 20)
	abandon(j)
	before := contents(t, disk)
	for range 3 {
		require.NoError(t, mustOpen(t, disk, kr).Close())
	}
	require.True(t, reflect.DeepEqual(before, contents(t, disk)))
}

func TestACommitIndexAloneIsNotWritten(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 3, 10)
	size := j.Size()
	require.NoError(t, j.Append(nil, hardState(1, 1, 2), false))
	require.Equal(t, size, j.Size())
	require.EqualValues(t, 2, j.HardState().GetCommit())
	// A new term or vote is written whatever the caller says.
	require.NoError(t, j.Append(nil, hardState(2, 1, 2), false))
	require.Greater(t, j.Size(), size)
	// A clean stop keeps what waited.
	require.NoError(t, j.Append(nil, hardState(2, 1, 3), false))
	require.NoError(t, j.Close())
	require.EqualValues(t, 3, mustOpen(t, disk, kr).HardState().GetCommit())
}

func TestACutNeedsAnAnchorThatNamesTheIndexAsDurable(t *testing.T) {
	j := mustOpen(t, vfs.NewMem(), newKeyring(t))
	fill(t, j, 5, 10)
	require.ErrorContains(t, j.Cut(3), "no anchor")
	require.NoError(t, j.WriteAnchor(Anchor{DurableApplied: 2}))
	require.ErrorContains(t, j.Cut(3), "no anchor")
	require.NoError(t, j.Cut(2))
	require.NoError(t, j.Cut(1), "a cut below the first index does nothing")
	require.EqualValues(t, 3, j.FirstIndex())
}

func TestAppendRefusesGapsAndEntriesThatAreTooLarge(t *testing.T) {
	j := mustOpen(t, vfs.NewMem(), newKeyring(t))
	require.Error(t, j.Append([]*raftpb.Entry{entry(2, 1, nil)}, nil, true))
	require.Error(t, j.Append([]*raftpb.Entry{entry(1, 1, nil), entry(3, 1, nil)}, nil, true))
	require.Error(t, j.Append([]*raftpb.Entry{entry(1, 1, make([]byte, MaxEntry+1))}, nil, true))
	require.NoError(t, j.Append([]*raftpb.Entry{entry(1, 1, make([]byte, MaxEntry))}, hardState(1, 1, 1), true))
	fill(t, j, 1, 1) // it has not failed
}

// TestALargeBatchTakesSeveralFrames: no frame grows beyond what a segment of the usual size holds.
func TestALargeBatchTakesSeveralFrames(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 5, 10)
	var ents []*raftpb.Entry
	for i := uint64(4); i < 14; i++ {
		ents = append(ents, entry(i, 2, make([]byte, 2<<20)))
	}
	require.NoError(t, j.Append(ents, hardState(2, 0, 13), true))
	require.EqualValues(t, 13, j.LastIndex())
	require.NoError(t, j.Close())

	c, err := readChain(seal.New(disk, kr, seal.Options{}), testDir)
	require.NoError(t, err)
	var commits []uint64
	for _, s := range c.segments {
		for i, st := range s.steps {
			if st.entries != nil && st.entries.first >= 4 && st.runs[0].term == 2 {
				commits = append(commits, s.steps[i-1].hardState.GetCommit())
				require.LessOrEqual(t, st.entries.n, 3)
			}
		}
	}
	require.Equal(t, []uint64{6, 9, 12, 13}, commits, "never beyond the entries that are there")
	require.EqualValues(t, 13, mustOpen(t, disk, kr).LastIndex())
}

func TestResetBeginsTheLogAnew(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 40, 1000)
	require.NoError(t, j.Expect(1000, 5))
	require.NoError(t, j.Reset(1000, 5))
	for range 2 {
		require.EqualValues(t, 1001, j.FirstIndex())
		require.EqualValues(t, 1000, j.LastIndex())
		term, err := j.Term(1000)
		require.NoError(t, err)
		require.EqualValues(t, 5, term)
		require.True(t, proto.Equal(hardState(5, 0, 1000), j.HardState()), "raft must not find a commit index or term below the snapshot's")
		_, _, ok := j.Expected()
		require.False(t, ok)
		require.NoError(t, j.Close())
		j = mustOpen(t, disk, kr)
	}
	require.ErrorContains(t, j.Reset(999, 5), "begins behind 1000")
}

// TestRotationLeavesNothingUnderTheOldKey: after Roll and a cut, no file is under the old data key.
func TestRotationLeavesNothingUnderTheOldKey(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 60, 1000)
	cut(t, j, 50) // leaves a segment that waits to be used again
	old := kr.Active()
	_, err := kr.Rotate()
	require.NoError(t, err)
	require.NoError(t, j.Roll())
	number := j.current().number
	require.NoError(t, j.Roll(), "a second call has nothing to do")
	require.Equal(t, number, j.current().number)
	cut(t, j, j.LastIndex())
	j.background.Wait()
	usage, err := j.fs.Inventory(testDir)
	require.NoError(t, err)
	for _, u := range usage {
		require.NotEqual(t, old, u.Key)
	}
	require.NoError(t, j.Close())
	require.NoError(t, kr.Remove(old))
	require.EqualValues(t, 60, mustOpen(t, disk, kr).LastIndex())
}

// TestTheJournalGoesOnWhileItIsResealed rotates the data key and reseals every file again and again meanwhile.
func TestTheJournalGoesOnWhileItIsResealed(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	rotations := make(chan struct{}, 100)
	var reseals sync.WaitGroup
	reseals.Go(func() {
		for range rotations {
			if _, err := kr.Rotate(); err != nil {
				t.Error(err)
				return
			}
			if err := j.fs.ResealAll(t.Context(), nil, testDir); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range uint64(400) {
		require.NoError(t, j.Append([]*raftpb.Entry{entry(i+1, 1, dataOf(i+1))}, hardState(1, 1, i+1), true))
		if i%7 == 0 {
			rotations <- struct{}{}
		}
		if i%100 == 99 {
			cut(t, j, i-40)
		}
		first := j.FirstIndex()
		ents, err := j.Entries(first, first+1, 1)
		require.NoError(t, err)
		require.Equal(t, dataOf(first), ents[0].Data)
	}
	close(rotations)
	reseals.Wait()
	m := modelOf(t, j)
	require.NoError(t, j.Close())
	require.NoError(t, m.compare(mustOpen(t, disk, kr)))
}

func TestSegmentsAreUsedAgain(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	for range 20 {
		fill(t, j, 40, 1000)
		cut(t, j, j.LastIndex())
	}
	j.background.Wait()
	names, err := disk.List(testDir)
	require.NoError(t, err)
	require.LessOrEqual(t, len(names), 4, "one that is needed, the current one, the next one, one to be used again: %v", names)
	require.NoError(t, j.Close())
	require.EqualValues(t, 800, mustOpen(t, disk, kr).LastIndex())
}

func TestDumpGivesTheWholeLogAndChangesNothing(t *testing.T) {
	kr, disk := newKeyring(t), vfs.NewMem()
	j := mustOpen(t, disk, kr)
	fill(t, j, 100, 700)
	require.NoError(t, j.Append([]*raftpb.Entry{entry(95, 2, []byte("a")), entry(96, 2, []byte("b"))}, hardState(2, 0, 94), true))
	require.NoError(t, j.Close())
	before := contents(t, disk)

	next := uint64(1)
	hs, err := Dump(seal.New(disk, kr, seal.Options{}), testDir, func(e *raftpb.Entry) error {
		require.Equal(t, next, e.GetIndex())
		want := entry(next, 1, make([]byte, 700))
		if next >= 95 {
			want = entry(next, 2, []byte{"ab"[next-95]})
		}
		require.True(t, proto.Equal(want, e))
		next++
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 97, next)
	require.EqualValues(t, 94, hs.GetCommit())
	require.True(t, reflect.DeepEqual(before, contents(t, disk)))

	stop := errors.New("stop")
	_, err = Dump(seal.New(disk, kr, seal.Options{}), testDir, func(*raftpb.Entry) error { return stop })
	require.ErrorIs(t, err, stop)
}

// TestReadersSeeWholeStates reads while entries are appended, replaced and cut.
func TestReadersSeeWholeStates(t *testing.T) {
	j := mustOpen(t, vfs.NewMem(), newKeyring(t))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				first, last := j.FirstIndex(), j.LastIndex()
				if last < first {
					continue
				}
				ents, err := j.Entries(first, last+1, 20_000)
				if err != nil {
					if err != raft.ErrCompacted && err != raft.ErrUnavailable {
						t.Error(err)
						return
					}
					continue
				}
				for i, e := range ents {
					if e.GetIndex() != first+uint64(i) || !bytes.Equal(e.Data, dataOf(e.GetIndex())) {
						t.Errorf("entry %d is another one", first+uint64(i))
						return
					}
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for k := range uint64(400) {
		i := j.LastIndex() + 1
		if k%10 == 9 {
			i -= 2
		}
		require.NoError(t, j.Append([]*raftpb.Entry{entry(i, 1+k/10, dataOf(i)), entry(i+1, 1+k/10, dataOf(i+1))}, nil, true))
		if k%40 == 39 {
			cut(t, j, i-5-rng.Uint64N(20))
		}
	}
	close(done)
	readers.Wait()
}

func dataOf(index uint64) []byte { return bytes.Repeat([]byte(fmt.Sprint(index)), 200) }

func TestAnotherMembersJournalIsRefused(t *testing.T) {
	disk := vfs.NewMem()
	j := mustOpen(t, disk, newKeyring(t))
	fill(t, j, 1, 1)
	require.NoError(t, j.Close())
	before := contents(t, disk)
	_, err := openOn(disk, newKeyring(t))
	require.ErrorContains(t, err, ".journal")
	require.True(t, reflect.DeepEqual(before, contents(t, disk)))
}
