package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/seal"
)

const sector = 512

// A victim is a journal of several segments, closed, that tests alter. It was cut once, killed once and has a
// prepared segment behind the last one.
type victim struct {
	kr    *keyring.Keyring
	files map[string][]byte
	names []string // of the segments that are needed, in order
	ends  map[string]seal.SegmentEnd
	// starts of the frames in each segment, and the end of the last one
	frames map[string][]int64
	// what stood in the files at earlier moments
	earlier []map[string][]byte
	log     *model
}

func newVictim(t testing.TB) *victim {
	v := &victim{kr: newKeyring(t), ends: map[string]seal.SegmentEnd{}, frames: map[string][]int64{}}
	disk := vfs.NewMem()
	j := mustOpen(t, disk, v.kr)
	keep := func() {
		j.background.Wait()
		v.earlier = append(v.earlier, contents(t, disk))
	}
	for i := range 5 {
		fill(t, j, 14, 1500)
		keep()
		if i == 2 {
			cut(t, j, 20)
			abandon(j)
			j = mustOpen(t, disk, v.kr)
		}
	}
	v.log = modelOf(t, j)
	last := j.current().number
	keep()
	v.files = v.earlier[len(v.earlier)-1]
	abandon(j)

	fs := seal.New(disk, v.kr, seal.Options{})
	c, err := readChain(fs, testDir)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(c.segments), 4)
	require.Equal(t, last, c.segments[len(c.segments)-1].number)
	for _, s := range c.segments {
		name := segmentName(s.number)
		v.names = append(v.names, name)
		v.ends[name] = s.end
		_, err := fs.ReadSegment(s.path, func(f seal.Frame, _ []byte) error {
			v.frames[name] = append(v.frames[name], f.Offset)
			return nil
		})
		require.NoError(t, err)
		v.frames[name] = append(v.frames[name], s.end.Offset)
	}
	return v
}

// modelOf returns what j says.
func modelOf(t testing.TB, j *Journal) *model {
	m := newModel()
	m.first, m.last, m.hs = j.FirstIndex(), j.LastIndex(), j.HardState()
	m.durableFirst, m.commit = m.first, m.hs.GetCommit()
	m.anchor, _ = j.Anchor()
	ents, err := j.Entries(m.first, m.last+1, ^uint64(0))
	require.NoError(t, err)
	m.terms[m.first-1], err = j.Term(m.first - 1)
	require.NoError(t, err)
	for _, e := range ents {
		m.entries[e.GetIndex()], m.terms[e.GetIndex()] = e, e.GetTerm()
	}
	return m
}

// disk returns a file system with the victim's files, which change may alter.
func (v *victim) disk(change func(files map[string][]byte)) *vfs.MemFS {
	files := map[string][]byte{}
	for name, b := range v.files {
		files[name] = append([]byte(nil), b...)
	}
	change(files)
	return diskWith(files)
}

func (v *victim) last() string { return v.names[len(v.names)-1] }

// requireRefused opens the journal on disk, and wants an error that names one of files and no file changed.
func (v *victim) requireRefused(t *testing.T, disk *vfs.MemFS, what string, files ...string) {
	t.Helper()
	before := contents(t, disk)
	j, err := openOn(disk, v.kr)
	if err == nil {
		abandon(j)
		t.Fatalf("%s: opened", what)
	}
	named := false
	for _, file := range files {
		named = named || strings.Contains(err.Error(), file)
	}
	require.True(t, named, "%s: the error does not name %v: %v", what, files, err)
	require.ErrorIs(t, err, pebble.ErrCorruption, what)
	require.True(t, reflect.DeepEqual(before, contents(t, disk)), "%s: files were changed", what)
}

// TestAnyChangedByteIsRefused flips a bit in every byte with COFFER_LONG=1, in many without. What is behind the last
// frame says nothing, so there a flip may also go unnoticed.
func TestAnyChangedByteIsRefused(t *testing.T) {
	v := newVictim(t)
	disk := v.disk(func(map[string][]byte) {})
	fs := seal.New(disk, v.kr, seal.Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range v.names {
		b, err := disk.UnsafeGetFileDataBuffer(testDir + "/" + name)
		require.NoError(t, err)
		flip := func(off int64) {
			old := b[off]
			b[off] ^= 1 << rng.IntN(8)
			_, err := readChain(fs, testDir)
			b[off] = old
			if err == nil && off >= v.ends[name].Offset && off < int64(len(b))-sector {
				return
			}
			require.ErrorContains(t, err, name, "byte %d", off)
			var altered *seal.Error
			if errors.As(err, &altered) { // else the header says another version, member or key
				require.LessOrEqual(t, altered.Offset, off, "%s frames %v end %+v: %v", name, v.frames[name], v.ends[name], err)
				require.Contains(t, altered.File, name)
			} else {
				require.Less(t, off, int64(sector))
			}
		}
		step := int64(97)
		if long() {
			step = 1
		}
		for off := int64(0); off < int64(len(b)); off += 1 + rng.Int64N(step) {
			if off >= v.ends[name].Offset && off < int64(len(b))-sector && !long() {
				off += 50 * rng.Int64N(step) // of the empty part, fewer
				off = min(off, int64(len(b))-1)
			}
			flip(off)
		}
		for _, start := range v.frames[name] { // the word, the nonce, and the end of the frame before
			for off := start - 16; off < min(start+16, int64(len(b))); off++ {
				flip(off)
			}
		}
	}
	_, err := readChain(fs, testDir)
	require.NoError(t, err)
}

func TestExchangedFramesAreRefused(t *testing.T) {
	v := newVictim(t)
	swaps := 0
	for i, a := range v.names {
		for k, b := range v.names[i:] {
			for x := range len(v.frames[a]) - 1 {
				for y := range len(v.frames[b]) - 1 {
					fa, fb := v.frames[a][x:x+2], v.frames[b][y:y+2]
					if k == 0 && y <= x || fa[1]-fa[0] != fb[1]-fb[0] || (x+y)%5 > 0 && !long() {
						continue
					}
					swaps++
					disk := v.disk(func(files map[string][]byte) {
						tmp := append([]byte(nil), files[a][fa[0]:fa[1]]...)
						copy(files[a][fa[0]:fa[1]], files[b][fb[0]:fb[1]])
						copy(files[b][fb[0]:fb[1]], tmp)
					})
					v.requireRefused(t, disk, fmt.Sprintf("%s frame %d with %s frame %d", a, x, b, y), a, b)
				}
			}
		}
	}
	require.Greater(t, swaps, 20)
}

func TestExchangedSegmentsAreRefused(t *testing.T) {
	v := newVictim(t)
	for i, a := range v.names {
		for _, b := range v.names[i+1:] {
			disk := v.disk(func(files map[string][]byte) { files[a], files[b] = files[b], files[a] })
			v.requireRefused(t, disk, a+" with "+b, a, b)
		}
	}
}

func TestAMissingSegmentIsRefused(t *testing.T) {
	v := newVictim(t)
	for i := range v.names {
		disk := v.disk(func(files map[string][]byte) { delete(files, v.names[i]) })
		v.requireRefused(t, disk, "without "+v.names[i], v.names[i])
	}
	// Also when the prepared segment behind it is gone too.
	next := len(v.names) - 1
	disk := v.disk(func(files map[string][]byte) {
		for name := range files {
			if name >= v.names[next] {
				delete(files, name)
			}
		}
	})
	v.requireRefused(t, disk, "without the last one and what follows", v.names[next])
}

// TestASegmentOfAnotherJournalOfTheMemberIsRefused: it is authentic in every respect, but follows another one.
func TestASegmentOfAnotherJournalOfTheMemberIsRefused(t *testing.T) {
	v := newVictim(t)
	disk := vfs.NewMem()
	j := mustOpen(t, disk, v.kr)
	fill(t, j, 80, 1500)
	abandon(j)
	other := contents(t, disk)
	for _, name := range v.names {
		disk := v.disk(func(files map[string][]byte) { files[name] = other[name] })
		v.requireRefused(t, disk, name+" of another journal", v.names...)
	}
}

// TestAnOldVersionOfASegmentIsRefused puts each segment back as it was at earlier moments. The last one may then look
// as if a crash had come earlier: that is what comparing with the store is for.
func TestAnOldVersionOfASegmentIsRefused(t *testing.T) {
	v := newVictim(t)
	refused := 0
	for _, old := range v.earlier {
		for _, name := range v.names {
			if string(old[name]) == string(v.files[name]) || old[name] == nil {
				continue
			}
			disk := v.disk(func(files map[string][]byte) { files[name] = old[name] })
			if name != v.last() {
				v.requireRefused(t, disk, "an old "+name, name)
				refused++
				continue
			}
			v.requirePrefix(t, disk)
		}
	}
	require.Positive(t, refused)
}

func TestACutFileIsRefused(t *testing.T) {
	v := newVictim(t)
	for _, name := range v.names {
		size := int64(len(v.files[name]))
		for _, at := range append(v.frames[name], 0, 1, sector-1, size-sector, size-1) {
			disk := v.disk(func(files map[string][]byte) { files[name] = files[name][:at] })
			v.requireRefused(t, disk, fmt.Sprintf("%s cut at %d", name, at), name)
		}
		disk := v.disk(func(files map[string][]byte) { files[name] = append(files[name], make([]byte, sector)...) })
		v.requireRefused(t, disk, name+" made longer", name)
	}
}

// TestErasedFramesAreRefused zeroes each segment from each frame on. In the last one that looks as if a crash had come
// before the frame was written.
func TestErasedFramesAreRefused(t *testing.T) {
	v := newVictim(t)
	for _, name := range v.names {
		for _, at := range v.frames[name] {
			for _, upTo := range []int64{int64(len(v.files[name])), int64(len(v.files[name])) - sector} {
				disk := v.disk(func(files map[string][]byte) { clear(files[name][at:upTo]) })
				if name == v.last() {
					v.requirePrefix(t, disk)
				} else if at < v.ends[name].Offset || upTo == int64(len(v.files[name])) {
					v.requireRefused(t, disk, fmt.Sprintf("%s erased from %d to %d", name, at, upTo), name)
				}
			}
		}
	}
}

// requirePrefix wants the journal on disk to open and to hold the first part of the log, or to be refused.
func (v *victim) requirePrefix(t *testing.T, disk *vfs.MemFS) {
	t.Helper()
	j, err := openOn(disk, v.kr)
	if err != nil {
		require.ErrorIs(t, err, pebble.ErrCorruption)
		return
	}
	defer abandon(j)
	m := v.log.clone()
	require.LessOrEqual(t, j.LastIndex(), m.last)
	m.last, m.hs, m.commit = j.LastIndex(), j.HardState(), j.HardState().GetCommit()
	require.NoError(t, m.compare(j))
}

// TestATornLastFrameIsLeftOut erases each choice of sectors of the last frame, as a crash before its sync may.
func TestATornLastFrameIsLeftOut(t *testing.T) {
	v := newVictim(t)
	frames := v.frames[v.last()]
	start, end := frames[len(frames)-2], frames[len(frames)-1]
	n := int((end - start) / sector)
	require.Greater(t, n, 2)
	for erased := 1; erased < 1<<n; erased++ {
		disk := v.disk(func(files map[string][]byte) {
			for i := range n {
				if erased&(1<<i) != 0 {
					clear(files[v.last()][start+int64(i)*sector:][:sector])
				}
			}
		})
		for range 2 { // also when the next process finds the torn frame again
			j, err := openOn(disk, v.kr)
			require.NoError(t, err, "sectors %b", erased)
			require.Equal(t, v.log.last-1, j.LastIndex())
			fill(t, j, 1, 100)
			require.NoError(t, j.Close())
			v.log.last++
		}
		v.log.last -= 2
	}
}

// TestATornFrameBeforeTheLastIsRefused erases a sector of a frame that others follow.
func TestATornFrameBeforeTheLastIsRefused(t *testing.T) {
	v := newVictim(t)
	for _, name := range v.names {
		frames := v.frames[name]
		for i := range len(frames) - 2 {
			for off := frames[i]; off < frames[i+1]; off += sector {
				disk := v.disk(func(files map[string][]byte) { clear(files[name][off : off+sector]) })
				v.requireRefused(t, disk, fmt.Sprintf("%s without the sector at %d", name, off), name)
			}
		}
	}
}

// TestLeftoversAreRemovedUnread: files that are not needed any more need not be whole.
func TestLeftoversAreRemovedUnread(t *testing.T) {
	v := newVictim(t)
	disk := v.disk(func(files map[string][]byte) {
		files[segmentName(1)] = []byte("anything")
		files["unfinished."+v.last()] = []byte("anything")
	})
	j, err := openOn(disk, v.kr)
	require.NoError(t, err)
	require.NoError(t, v.log.compare(j))
	fill(t, j, 1, 1)
	require.NoError(t, j.Close())
	for name := range contents(t, disk) {
		require.NotEqual(t, segmentName(1), name)
		require.NotContains(t, name, "unfinished")
	}
}
