package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// payload returns what the tests put into frame i: 0 to several sectors.
func payload(i int) []byte { return random(uint64(i), i*i*97%3000) }

func appendFrames(t testing.TB, s *Segment, n int) []Frame {
	t.Helper()
	var frames []Frame
	for i := range n {
		f, err := s.Append(payload(i))
		must(t, err)
		must(t, s.Sync())
		frames = append(frames, f)
	}
	return frames
}

// readFrames reads a segment whose frames must be the first ones of appendFrames.
func readFrames(t testing.TB, fs *FS, name string) (n int, end SegmentEnd, err error) {
	t.Helper()
	end, err = fs.ReadSegment(name, func(f Frame, p []byte) error {
		if f.Index != uint64(n) || !bytes.Equal(p, payload(n)) {
			t.Fatalf("frame %d is not what was appended", n)
		}
		n++
		return nil
	})
	return n, end, err
}

const seg = "db/0000000000000001.journal"

func TestSegmentGivesBackWhatWasAppended(t *testing.T) {
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		must(t, base.MkdirAll(dir, 0o700))
		fs := New(base, newTestKeyring(t), Options{})
		name := dir + "/1.journal"
		s, err := fs.CreateSegment(name, 100_000)
		must(t, err)
		if s.Size() != 100_352 || s.Offset() != headerSize || s.Tail() != (Tail{}) || !s.Active() {
			t.Fatalf("a new segment has size %d, offset %d, tail %v", s.Size(), s.Offset(), s.Tail())
		}
		frames := appendFrames(t, s, 20)
		check := func(open bool) {
			t.Helper()
			n, end, err := readFrames(t, fs, name)
			must(t, err)
			if n != 20 || end.Tail != s.Tail() || end.Offset != s.Offset() || end.Torn || end.Ended == open {
				t.Fatalf("read %d frames up to %+v, want tail %v", n, end, s.Tail())
			}
		}
		check(true)
		for i, f := range slices.Backward(frames) {
			p, err := s.ReadFrame(f)
			must(t, err)
			if !bytes.Equal(p, payload(i)) {
				t.Fatalf("frame %d read by itself is not what was appended", i)
			}
		}
		must(t, s.End())
		must(t, s.End())
		check(false)
		if _, err := s.Append(nil); err == nil {
			t.Fatal("appended after the end mark")
		}
		must(t, s.Close())
		check(false)
		if got := raw(t, base, name); len(got) != 100_352 {
			t.Fatalf("the file has %d bytes", len(got))
		}
	}
}

func TestSegmentRefusesWhatDoesNotFit(t *testing.T) {
	fs, _ := newTestFS(t)
	s, err := fs.CreateSegment(seg, SegmentSize(1000))
	must(t, err)
	if s.Fits(1001+sector) || !s.Fits(1000) {
		t.Fatal("Fits is wrong")
	}
	if _, err := s.Append(make([]byte, 5000)); !errors.Is(err, ErrSegmentFull) {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Append(make([]byte, MaxPayload+1)); err == nil || errors.Is(err, ErrSegmentFull) {
		t.Fatalf("got %v", err)
	}
	_, err = s.Append(make([]byte, 1000))
	must(t, err)
	if _, err := s.Append(nil); err == nil {
		t.Fatal("a second frame was appended while the first was not synced")
	}
	must(t, s.Sync())
	if _, err := s.Append(nil); !errors.Is(err, ErrSegmentFull) {
		t.Fatalf("got %v", err)
	}
	must(t, s.Close())
}

func TestSegmentCreatedTwiceReplacesTheFirst(t *testing.T) {
	fs, base := newTestFS(t)
	s, err := fs.CreateSegment(seg, 1<<16)
	must(t, err)
	if _, err := fs.CreateSegment(seg, 1<<16); err == nil {
		t.Fatal("replaced an open segment")
	}
	appendFrames(t, s, 2)
	must(t, s.Close())
	s, err = fs.CreateSegment(seg, 1<<16)
	must(t, err)
	must(t, s.Close())
	if n, _, err := readFrames(t, fs, seg); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if all := names(t, base, "db"); len(all) != 1 {
		t.Fatalf("files left: %v", all)
	}
}

// segmentWith returns a file system with one closed segment of n frames, and its
// sealed bytes.
func segmentWith(t testing.TB, n int, ended bool) (*FS, *vfs.MemFS, []Frame, []byte) {
	t.Helper()
	fs, base := newTestFS(t)
	s, err := fs.CreateSegment(seg, 64<<10)
	must(t, err)
	frames := appendFrames(t, s, n)
	if ended {
		must(t, s.End())
	}
	frames = append(frames, Frame{Offset: s.Offset(), Index: uint64(n)})
	must(t, s.Close())
	return fs, base, frames, raw(t, base, seg)
}

func TestSegmentTornOrTampered(t *testing.T) {
	const n = 6
	fs, base, frames, good := segmentWith(t, n, false)
	last, before := frames[n-1].Offset, frames[n-2].Offset
	end := frames[n].Offset
	if end-last < 3*sector || last-before < 3*sector {
		t.Fatal("the test needs frames of three sectors")
	}
	word := func(b []byte, at int64, change int) {
		binary.LittleEndian.PutUint32(b[at:], uint32(int(binary.LittleEndian.Uint32(b[at:]))+change))
	}
	for _, c := range []struct {
		name  string
		alter func(b []byte)
		keeps int // frames, or -1: refused
	}{
		{"nothing", func(b []byte) {}, n},
		{"the last frame was never written", func(b []byte) { clear(b[last:end]) }, n - 1},
		{"the first sector of the last frame was not written", func(b []byte) { clear(b[last : last+sector]) }, n - 1},
		{"a middle sector of the last frame was not written", func(b []byte) { clear(b[last+sector : last+2*sector]) }, n - 1},
		{"the last sector of the last frame was not written", func(b []byte) { clear(b[end-sector : end]) }, n - 1},
		{"only the first sector of the last frame was written", func(b []byte) { clear(b[last+sector : end]) }, n - 1},
		{"only the last sector of the last frame was written", func(b []byte) { clear(b[last : end-sector]) }, n - 1},

		{"a bit of the last frame was flipped", func(b []byte) { b[last+100] ^= 1 }, -1},
		{"a bit of the last frame's tag was flipped", func(b []byte) { b[end-1] ^= 1 }, -1},
		{"a bit of the last frame's nonce was flipped", func(b []byte) { b[last+5] ^= 1 }, -1},
		{"the last frame claims to be longer", func(b []byte) { word(b, last, sector) }, -1},
		{"the last frame claims to be much longer", func(b []byte) { word(b, last, 20*sector) }, -1},
		{"the last frame claims to be shorter", func(b []byte) { word(b, last, -sector) }, -1},
		{"the last frame claims an odd length", func(b []byte) { word(b, last, 1) }, -1},
		{"the last frame claims to reach beyond the file", func(b []byte) { word(b, last, 1<<19) }, -1},
		{"the last frame claims to be final", func(b []byte) { b[last+3] ^= 0x80 }, -1},
		{"a part of a sector of the last frame was cleared", func(b []byte) { clear(b[last+sector+1 : last+2*sector]) }, -1},
		{"the frame before has lost its first sector", func(b []byte) { clear(b[before : before+sector]) }, -1},
		{"the frame before has lost a middle sector", func(b []byte) { clear(b[before+sector : before+2*sector]) }, -1},
		{"the frame before is missing", func(b []byte) { clear(b[before:last]) }, -1},
		{"a bit of the frame before was flipped", func(b []byte) { b[before+100] ^= 1 }, -1},
		{"a bit of the first frame was flipped", func(b []byte) { b[headerSize+100] ^= 1 }, -1},
		// For all that can be known, this was left of a frame that never was acknowledged.
		{"something stands behind the last frame", func(b []byte) { b[end+2000] = 1 }, n},
		{"something follows a torn last frame", func(b []byte) { clear(b[last+sector : end]); b[end+2000] = 1 }, -1},
		{"a sector of the last frame stands behind it too", func(b []byte) { copy(b[end:], b[last+sector:last+2*sector]) }, -1},
		{"two frames are swapped", func(b []byte) {
			f := bytes.Clone(b[before:end])
			copy(b[before:], f[last-before:])
			copy(b[before+end-last:], f[:last-before])
		}, -1},
		{"the last frame stands there twice", func(b []byte) { copy(b[end:], b[last:end]) }, -1},
		{"the end mark is noise", func(b []byte) { b[len(b)-10] = 1 }, -1},
		{"an empty frame stands where the end mark goes", func(b []byte) { copy(b[len(b)-sector:], b[headerSize:headerSize+sector]) }, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			c.alter(b)
			setRaw(t, base, seg, b)
			got, end, err := readFrames(t, fs, seg)
			if c.keeps < 0 {
				wantAltered(t, err, seg)
				return
			}
			must(t, err)
			if got != c.keeps || end.Offset != frames[c.keeps].Offset || end.Tail.Frames != uint64(c.keeps) {
				t.Fatalf("%d frames up to %+v, want %d", got, end, c.keeps)
			}
			if torn := lastNonZero(b[end.Offset:len(b)-sector]) > 0; end.Torn != torn {
				t.Fatalf("torn is %v", end.Torn)
			}
		})
	}
}

func TestSegmentEndMarkCountsItsFrames(t *testing.T) {
	const n = 6
	fs, base, frames, good := segmentWith(t, n, true)
	if got, end, err := readFrames(t, fs, seg); err != nil || got != n || !end.Ended {
		t.Fatal(got, end, err)
	}
	// A segment that has ended cannot lose frames, torn or not.
	for i := range n {
		b := bytes.Clone(good)
		clear(b[frames[i].Offset:frames[n].Offset])
		setRaw(t, base, seg, b)
		_, _, err := readFrames(t, fs, seg)
		wantAltered(t, err, seg)
	}
	b := bytes.Clone(good)
	clear(b[frames[n].Offset-sector : frames[n].Offset])
	setRaw(t, base, seg, b)
	_, _, err := readFrames(t, fs, seg)
	wantAltered(t, err, seg)
}

func TestSegmentOfAnEarlierProcessIsEndedNotContinued(t *testing.T) {
	const n = 6
	fs, base, frames, good := segmentWith(t, n, false)
	clear(good[frames[n-1].Offset : frames[n-1].Offset+sector])
	setRaw(t, base, seg, good)
	_, end, err := readFrames(t, fs, seg)
	must(t, err)
	if !end.Torn {
		t.Fatal("not torn")
	}
	s, err := fs.OpenSegment(seg, end)
	must(t, err)
	if _, err := s.Append(nil); err == nil {
		t.Fatal("appended to a segment of an earlier process")
	}
	p, err := s.ReadFrame(frames[3])
	if err != nil || !bytes.Equal(p, payload(3)) {
		t.Fatal("frame 3", err)
	}
	if _, err := s.ReadFrame(Frame{Offset: frames[3].Offset, Index: 2}); err == nil {
		t.Fatal("a frame was taken for another")
	}
	must(t, s.End())
	must(t, s.Close())
	got, end, err := readFrames(t, fs, seg)
	if err != nil || got != n-1 || !end.Torn || !end.Ended {
		t.Fatalf("%d frames, %+v, %v", got, end, err)
	}
}

func TestSegmentReusedShowsNothingOfItsFormerLife(t *testing.T) {
	fs, base, frames, old := segmentWith(t, 8, true)
	const seg2 = "db/0000000000000002.journal"
	s, err := fs.ReuseSegment(seg, seg2)
	must(t, err)
	f, err := s.Append(payload(0))
	must(t, err)
	must(t, s.Sync())
	must(t, s.Close())
	if _, err := base.Stat(seg); !oserror.IsNotExist(err) {
		t.Fatal("the old name is still there")
	}
	n, _, err := readFrames(t, fs, seg2)
	if n != 1 || err != nil {
		t.Fatal(n, err)
	}
	// Its old frames, put back where they were, do not open.
	b := raw(t, base, seg2)
	next := f.Offset + int64(logFrameSize(len(payload(0))))
	copy(b[next:], old[frames[1].Offset:frames[8].Offset])
	setRaw(t, base, seg2, b)
	_, _, err = readFrames(t, fs, seg2)
	wantAltered(t, err, seg2)
	// Nor does the old header make it the old segment.
	copy(b, old[:headerSize])
	setRaw(t, base, seg2, b)
	_, _, err = readFrames(t, fs, seg2)
	wantAltered(t, err, seg2)
}

func TestSegmentUnderARetiredKeyIsNotReused(t *testing.T) {
	fs, _, _, _ := segmentWith(t, 3, true)
	_, err := fs.kr.Rotate()
	must(t, err)
	if _, err := fs.ReuseSegment(seg, "db/2.journal"); !errors.Is(err, ErrRetiredKey) {
		t.Fatalf("got %v", err)
	}
	if n, _, err := readFrames(t, fs, seg); n != 3 || err != nil {
		t.Fatal(n, err)
	}
}

func TestSegmentOfAnotherLengthIsRefused(t *testing.T) {
	fs, base, frames, good := segmentWith(t, 6, false)
	for _, f := range frames {
		setRaw(t, base, seg, good[:f.Offset])
		_, _, err := readFrames(t, fs, seg)
		wantAltered(t, err, seg)
	}
	setRaw(t, base, seg, append(good, make([]byte, sector)...))
	_, _, err := readFrames(t, fs, seg)
	wantAltered(t, err, seg)
}

func TestSegmentWithTooMuchBehindItsEndIsRefused(t *testing.T) {
	fs, base := newTestFS(t)
	s, err := fs.CreateSegment(seg, 20<<20)
	must(t, err)
	appendFrames(t, s, 2)
	must(t, s.Close())
	b := raw(t, base, seg)
	b[s.Offset()+maxJournalFrame-1] = 1
	setRaw(t, base, seg, b)
	n, end, err := readFrames(t, fs, seg)
	if err != nil || n != 2 || !end.Torn {
		t.Fatal(n, end, err)
	}
	b[s.Offset()+maxJournalFrame] = 1
	setRaw(t, base, seg, b)
	_, _, err = readFrames(t, fs, seg)
	wantAltered(t, err, seg)
}

// Every crash while a segment is made, or made of another, leaves either name
// readable or gone, and nothing that RemoveUnfinished does not remove.
func TestSegmentPreparationSurvivesACrashAtEveryPoint(t *testing.T) {
	for at := int32(0); ; at++ {
		fs, base, _, _ := segmentWith(t, 3, true)
		must(t, syncDir(base, "db"))
		must(t, syncDir(base, "/"))
		inj := errorfs.OnIndex(at)
		broken := New(errorfs.Wrap(base, inj), fs.kr, Options{})
		const seg2, seg3 = "db/2.journal", "db/3.journal"
		s2, err2 := broken.CreateSegment(seg2, 32<<10)
		s3, err3 := broken.ReuseSegment(seg, seg3)
		inj.Store(-1)
		for _, s := range []*Segment{s2, s3} {
			if s != nil {
				appendFrames(t, s, 2)
			}
		}
		after := New(base.CrashClone(vfs.CrashCloneCfg{}), fs.kr, Options{})
		must(t, after.RemoveUnfinished("db"))
		all, err := after.List("db")
		must(t, err)
		for _, name := range all {
			n, _, err := readFrames(t, after, "db/"+name)
			must(t, err)
			want := map[string]int{"0000000000000001.journal": 3, "2.journal": 2, "3.journal": 2}[name]
			if name == "2.journal" && err2 != nil || name == "3.journal" && err3 != nil {
				want = 0 // it came into being, but whoever made it was told that it had not
			}
			if n != want {
				t.Fatalf("failure %d: %s has %d frames", at, name, n)
			}
		}
		for name, err := range map[string]error{"2.journal": err2, "3.journal": err3} {
			if err == nil && !slices.Contains(all, name) {
				t.Fatalf("failure %d: %s was made, but is gone", at, name)
			}
		}
		if err2 == nil && err3 == nil {
			if at < 15 {
				t.Fatalf("only %d points were tried", at)
			}
			return
		}
	}
}

func syncDir(base vfs.FS, dir string) error {
	d, err := base.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func TestSegmentFailsForGoodAfterAFailedSync(t *testing.T) {
	base := vfs.NewMem()
	must(t, base.MkdirAll("db", 0o700))
	var fail bool
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail && op.Kind == errorfs.OpFileSyncData {
			return errorfs.ErrInjected
		}
		return nil
	})
	fs := New(errorfs.Wrap(base, inj), newTestKeyring(t), Options{})
	s, err := fs.CreateSegment(seg, 64<<10)
	must(t, err)
	appendFrames(t, s, 2)
	_, err = s.Append(nil)
	must(t, err)
	fail = true
	if err := s.Sync(); !errors.Is(err, errorfs.ErrInjected) {
		t.Fatalf("got %v", err)
	}
	fail = false
	for what, err := range map[string]error{"sync": s.Sync(), "end": s.End(), "append": second(s.Append(nil))} {
		if !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("%s after a failed sync: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A segment torn in every way that a crash of the memory file system can leave
// is recovered, and all that was synced is there.
func TestSegmentAfterRandomCrashes(t *testing.T) {
	for seed := range uint64(rounds(100, 2000)) {
		fs, base := newTestFS(t)
		must(t, syncDir(base, "/"))
		s, err := fs.CreateSegment(seg, 256<<10)
		must(t, err)
		appendFrames(t, s, 5)
		_, err = s.Append(random(seed, int(seed%800)*300))
		must(t, err)
		crashed := New(base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: newRand(seed)}), fs.kr, Options{})
		n := 0
		end, err := crashed.ReadSegment(seg, func(f Frame, p []byte) error {
			want := payload(n)
			if n == 5 {
				want = random(seed, int(seed%800)*300)
			}
			if !bytes.Equal(p, want) {
				return fmt.Errorf("frame %d is not what was appended", n)
			}
			n++
			return nil
		})
		must(t, err)
		if n < 5 || n == 6 && end.Torn {
			t.Fatalf("seed %d: %d frames, torn %v", seed, n, end.Torn)
		}
		must(t, s.Close())
	}
}
