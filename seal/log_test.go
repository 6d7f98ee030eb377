package seal

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writeLog writes n records to a log, each synced, and returns what the log says
// after each: content and tail.
func writeLog(t testing.TB, fs *FS, path string, n int) (f vfs.File, contents [][]byte, tails []Tail) {
	t.Helper()
	f, err := fs.Create(path, writeCategory)
	must(t, err)
	content := []byte{}
	contents, tails = append(contents, content), append(tails, Tail{})
	for i := range n {
		record := random(uint64(i), 1+i*300)
		for piece := range pieces(record, 500) {
			_, err := f.Write(bytes.Clone(piece))
			must(t, err)
		}
		must(t, f.Sync())
		content = append(bytes.Clone(content), record...)
		tail, err := fs.LogTail(path)
		must(t, err)
		contents, tails = append(contents, content), append(tails, tail)
	}
	return f, contents, tails
}

func TestLogsCloseAFrameAtEverySync(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, syncDir(base, "/"))
	for _, path := range logPaths {
		f, contents, tails := writeLog(t, fs, path, 5)
		must(t, syncDir(base, "db"))
		if tails[5].Frames != 5 {
			t.Fatalf("%s has %d frames", path, tails[5].Frames)
		}
		// What is written but not synced is nowhere yet, and a crash leaves the rest.
		_, err := f.Write([]byte("not synced"))
		must(t, err)
		got, err := read(fs, path)
		must(t, err)
		if !bytes.Equal(got, contents[5]) {
			t.Fatalf("%s: another handle reads something else than what was synced", path)
		}
		after := New(base.CrashClone(vfs.CrashCloneCfg{}), fs.kr, Options{})
		got, err = read(after, path)
		must(t, err)
		if !bytes.Equal(got, contents[5]) {
			t.Fatalf("%s: a crash left something else", path)
		}
		must(t, after.CheckTail(path, tails[5]))
		must(t, f.Close())
	}
}

func TestLogsLargerThanAFrameHaveOneUnsyncedFrameAtMost(t *testing.T) {
	fs, base := newTestFS(t)
	f, err := fs.Create("db/MANIFEST-000001", writeCategory)
	must(t, err)
	content := random(1, 5<<19+3)
	for piece := range pieces(content, 100_000) {
		_, err := f.Write(bytes.Clone(piece))
		must(t, err)
	}
	tail, err := fs.LogTail("db/MANIFEST-000001")
	must(t, err)
	if tail.Frames != 2 {
		t.Fatalf("%d frames were synced of 2.5 MiB", tail.Frames)
	}
	must(t, f.Close())
	got, err := read(fs, "db/MANIFEST-000001")
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("read back something else")
	}
	_ = base
}

// A log cut between two frames opens: nothing in it can say that there was more.
// The tail that was recorded elsewhere can.
func TestALogThatWasCutFailsTheCheckOfItsTail(t *testing.T) {
	fs, base := newTestFS(t)
	const path = "db/MANIFEST-000001"
	f, contents, tails := writeLog(t, fs, path, 5)
	must(t, f.Close())
	good := raw(t, base, path)
	h, err := fs.openAndRegister(path, KindManifest, nil)
	must(t, err)
	r, err := fs.newReader(h)
	must(t, err)
	var bounds []int64
	for _, part := range r.index {
		bounds = append(bounds, part.Offset)
	}
	must(t, r.Close())
	for i, bound := range bounds {
		setRaw(t, base, path, good[:bound])
		got, err := read(fs, path)
		must(t, err)
		if !bytes.Equal(got, contents[i]) {
			t.Fatal("read something else")
		}
		for j, tail := range tails {
			if err := fs.CheckTail(path, tail); j <= i {
				must(t, err)
			} else {
				wantAltered(t, err, path)
			}
		}
	}
	// Another log, however long, is not this one.
	f, _, other := writeLog(t, fs, path, 6)
	must(t, f.Close())
	for i := 1; i <= 5; i++ {
		wantAltered(t, fs.CheckTail(path, tails[i]), path)
		must(t, fs.CheckTail(path, other[i]))
	}
}

func TestALogTornByACrashEndsBefore(t *testing.T) {
	fs, base := newTestFS(t)
	const path = "db/MANIFEST-000001"
	f, contents, _ := writeLog(t, fs, path, 5)
	must(t, f.Close())
	good := raw(t, base, path)
	last := len(good) - logFrameSize(1+4*300)
	for _, c := range []struct {
		name  string
		alter func(b []byte) []byte
		ok    bool
	}{
		{"the file ends in the last frame's word", func(b []byte) []byte { return b[:last+2] }, true},
		{"the file ends in the last frame", func(b []byte) []byte { return b[:last+700] }, true},
		{"the file has its size, but not the last frame", func(b []byte) []byte { clear(b[last:]); return b }, true},
		{"the file has its size, and half the last frame", func(b []byte) []byte { clear(b[last+sector:]); return b }, true},
		{"the last frame lacks its first sector", func(b []byte) []byte { clear(b[last : last+sector]); return b }, true},
		{"a bit of the last frame", func(b []byte) []byte { b[last+300] ^= 1; return b }, false},
		{"a bit of the last frame's length", func(b []byte) []byte { b[last+1] ^= 2; return b }, false},
		{"the last frame twice", func(b []byte) []byte { return append(b, b[last:]...) }, false},
		{"a bit of an earlier frame", func(b []byte) []byte { b[headerSize+200] ^= 1; return b }, false},
		{"an earlier frame lacks a sector", func(b []byte) []byte { clear(b[headerSize : headerSize+sector]); return b }, false},
	} {
		setRaw(t, base, path, c.alter(bytes.Clone(good)))
		got, err := read(fs, path)
		if !c.ok {
			wantAltered(t, err, path)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !bytes.Equal(got, contents[4]) {
			t.Fatalf("%s: read %d bytes", c.name, len(got))
		}
	}
}

func TestALogWithoutItsHeaderIsEmptyOnlyIfPebbleTakesItSo(t *testing.T) {
	fs, base := newTestFS(t)
	for path, empty := range map[string]bool{"db/000004.log": true, "db/temporary.000001.dbtmp": true, "db/MANIFEST-000001": false,
		"db/000001.sst": false, "db/OPTIONS-000001": false, "db/000002.blob": false, "db/marker.x.000001.y": false} {
		for _, content := range [][]byte{nil, make([]byte, 100), make([]byte, headerSize), make([]byte, 4096)} {
			setRaw(t, base, path, content)
			got, err := read(fs, path)
			if empty {
				if err != nil || len(got) > 0 {
					t.Fatalf("%s: %d bytes, %v", path, len(got), err)
				}
			} else {
				wantAltered(t, err, path)
			}
		}
		must(t, fs.Remove(path))
	}
}

// A reader that stops at io.EOF only gets there when all frames were opened.
func TestEndOfFileComesOnlyAtTheEnd(t *testing.T) {
	fs, _ := newTestFS(t)
	f, contents, _ := writeLog(t, fs, "db/MANIFEST-000001", 4)
	must(t, f.Close())
	r, err := fs.Open("db/MANIFEST-000001")
	must(t, err)
	defer r.Close()
	var got []byte
	for {
		p := make([]byte, 333)
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
	}
	if !bytes.Equal(got, contents[4]) {
		t.Fatal("read something else")
	}
}
