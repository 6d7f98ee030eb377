package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

const frameSize = tableFrame + overhead // on the disk

func TestFilesGiveBackWhatWasWritten(t *testing.T) {
	sizes := []int{0, 1, tableFrame - 1, tableFrame, tableFrame + 1, 3 * tableFrame, 10*tableFrame + 5, 2 << 20}
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		must(t, base.MkdirAll(dir+"/db", 0o700))
		fs := New(base, newTestKeyring(t), Options{})
		for _, path := range append(oncePaths, logPaths...) {
			for i, size := range sizes {
				want := random(uint64(i), size)
				write(t, fs, dir+"/"+path, want)
				got, err := read(fs, dir+"/"+path)
				must(t, err)
				if !bytes.Equal(got, want) {
					t.Fatalf("%s of %d bytes: read back something else", path, size)
				}
				info, err := fs.Stat(dir + "/" + path)
				must(t, err)
				if info.Size() != int64(size) {
					t.Fatalf("%s of %d bytes: Stat says %d", path, size, info.Size())
				}
			}
		}
	}
}

func TestReadAtSpeaksLogicalOffsets(t *testing.T) {
	fs, _ := newTestFS(t)
	content := random(1, 3<<20+77)
	for _, path := range []string{"db/000001.sst", "db/MANIFEST-000001"} {
		write(t, fs, path, content)
		f, err := fs.Open(path)
		must(t, err)
		rng := newRand(1)
		for range 300 {
			off := rng.IntN(len(content) + 100)
			p := make([]byte, rng.IntN(1<<rng.IntN(21)))
			n, err := f.ReadAt(p, int64(off))
			want := content[min(off, len(content)):]
			want = want[:min(len(want), len(p))]
			if !bytes.Equal(p[:n], want) || (n < len(p)) != (err == io.EOF) || err != nil && err != io.EOF {
				t.Fatalf("%s: %d bytes at %d: got %d, %v", path, len(p), off, n, err)
			}
		}
		must(t, f.Prefetch(100, 1<<20))
		must(t, f.Close())
		if err := f.Close(); err == nil {
			t.Fatal("closed twice")
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("read after close: %v", err)
		}
	}
}

func TestSyncFinishesAFileThatIsWrittenOnce(t *testing.T) {
	fs, base := newTestFS(t)
	for _, path := range oncePaths {
		f, err := fs.Create(path, writeCategory)
		must(t, err)
		_, err = f.Write(random(1, 9000))
		must(t, err)
		must(t, f.Sync())
		size := len(raw(t, base, path))
		if _, err := f.Write([]byte("x")); !errors.Is(err, errFinished) {
			t.Fatalf("%s: write after Sync: %v", path, err)
		}
		must(t, f.Sync())
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if len(raw(t, base, path)) != size {
			t.Fatalf("%s grew after Sync", path)
		}
		if _, err := read(fs, path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCloseFinishesAndSyncsWhatSyncHasNot(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, syncDir(base, "/"))
	for _, path := range append(oncePaths, logPaths...) {
		f, err := fs.Create(path, writeCategory)
		must(t, err)
		_, err = f.Write(random(1, 9000))
		must(t, err)
		must(t, f.Close())
		must(t, syncDir(base, "db"))
		after := New(base.CrashClone(vfs.CrashCloneCfg{}), fs.kr, Options{})
		got, err := read(after, path)
		must(t, err)
		if len(got) != 9000 {
			t.Fatalf("%s: %d bytes survived", path, len(got))
		}
	}
}

// Pebble wraps what Create returns so that it is synced as it grows. That must
// not finish the file.
func TestPebblesPeriodicSyncsDoNotFinishAFile(t *testing.T) {
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		must(t, base.MkdirAll(dir, 0o700))
		fs := New(base, newTestKeyring(t), Options{})
		syncing := vfs.NewSyncingFS(fs, vfs.SyncingFileOptions{NoSyncOnClose: true, BytesPerSync: 512 << 10, PreallocateSize: 1 << 20})
		content := random(1, 8<<20)
		write(t, syncing, dir+"/000001.sst", content)
		got, err := read(fs, dir+"/000001.sst")
		must(t, err)
		if !bytes.Equal(got, content) {
			t.Fatal("read back something else")
		}
	}
}

func TestHandlesShowNoDescriptor(t *testing.T) {
	fs, base := newTestFS(t)
	f, err := fs.Create("db/000001.sst", writeCategory)
	must(t, err)
	if f.Fd() == vfs.InvalidFd {
		t.Fatal("Pebble would sync, and so finish, this file every half MiB")
	}
	_, err = f.Read(nil)
	_, err2 := f.ReadAt(nil, 0)
	_, err3 := f.WriteAt(nil, 0)
	if err == nil || err2 == nil || err3 == nil {
		t.Fatal("a file being written can be read, or written in place")
	}
	must(t, f.Close())
	r, err := fs.Open("db/000001.sst")
	must(t, err)
	if r.Fd() != vfs.InvalidFd {
		t.Fatal("a reader shows a descriptor")
	}
	if _, err := r.Write(nil); err == nil {
		t.Fatal("wrote through a reader")
	}
	must(t, r.Close())
	if _, err := fs.OpenReadWrite("db/000001.sst", writeCategory); err == nil {
		t.Fatal("opened a sealed file for writing in place")
	}
	if fs.Unwrap() != nil || vfs.Root(fs) != vfs.FS(fs) {
		t.Fatal("the file system underneath can be reached")
	}
	_ = base
}

// alterations are ways to change the bytes of a file that is written once. size
// is that of a whole number of frames and a part of one.
var alterations = []struct {
	name  string
	alter func(b []byte) []byte
}{
	{"magic", flip(0)},
	{"version", flip(8)},
	{"suite", flip(10)},
	{"frame size", flip(13)},
	{"kind", flip(16)},
	{"name length", flip(17)},
	{"reserved", flip(20)},
	{"length", flip(24)},
	{"cluster id", flip(32)},
	{"member id", flip(40)},
	{"key id", flip(48)},
	{"salt", flip(64)},
	{"name", flip(nameOffset)},
	{"header padding", flip(tagOffset - 1)},
	{"header tag", flip(headerSize - 1)},
	{"first frame's length", flip(headerSize)},
	{"first frame's flags", flip(headerSize + 3)},
	{"first frame's nonce", flip(headerSize + wordSize)},
	{"first frame's text", flip(headerSize + 100)},
	{"first frame's tag", flip(headerSize + frameSize - 1)},
	{"last frame's tag", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
	{"a byte behind the end", func(b []byte) []byte { return append(b, 0) }},
	{"a byte missing at the end", func(b []byte) []byte { return b[:len(b)-1] }},
	{"a frame repeated at the end", func(b []byte) []byte { return append(b, b[headerSize:headerSize+frameSize]...) }},
	{"two frames swapped", func(b []byte) []byte {
		f := bytes.Clone(b[headerSize : headerSize+frameSize])
		copy(b[headerSize:], b[headerSize+frameSize:headerSize+2*frameSize])
		copy(b[headerSize+frameSize:], f)
		return b
	}},
	{"a frame removed", func(b []byte) []byte { return append(b[:headerSize+frameSize], b[headerSize+2*frameSize:]...) }},
	{"a frame twice", func(b []byte) []byte {
		copy(b[headerSize:], b[headerSize+frameSize:headerSize+2*frameSize])
		return b
	}},
	{"zeroed", func(b []byte) []byte { clear(b); return b }},
	{"emptied", func(b []byte) []byte { return nil }},
	{"cut in the header", func(b []byte) []byte { return b[:headerSize-1] }},
	{"another program's", func(b []byte) []byte { return []byte(fmt.Sprintf("%0600d", 1)) }},
}

func flip(i int) func([]byte) []byte {
	return func(b []byte) []byte { b[i] ^= 1; return b }
}

func TestAlteredFilesAreRefusedByName(t *testing.T) {
	fs, base := newTestFS(t)
	for _, path := range oncePaths {
		content := random(1, 4*tableFrame+100)
		write(t, fs, path, content)
		good := raw(t, base, path)
		for _, a := range alterations {
			setRaw(t, base, path, a.alter(bytes.Clone(good)))
			got, err := read(fs, path)
			kind, _ := KindOf(fs.PathBase(path))
			if kind.unfinishedIsEmpty() && err == nil && len(got) == 0 && (a.name == "zeroed" || a.name == "emptied" || a.name == "cut in the header") {
				continue
			}
			wantRefused(t, err, path, a.name)
		}
		for cut := headerSize; cut < len(good); cut += frameSize {
			setRaw(t, base, path, good[:cut])
			_, err := read(fs, path)
			wantAltered(t, err, path)
		}
		setRaw(t, base, path, good)
		got, err := read(fs, path)
		must(t, err)
		if !bytes.Equal(got, content) {
			t.Fatal("the file itself does not read any more")
		}
	}
}

// wantRefused accepts, beside *Error, the errors that name another remedy than
// tampering: another program, version, member or key.
func wantRefused(t testing.TB, err error, path, what string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s with %s altered was read", path, what)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("%s with %s altered looks like the end of a file: %v", path, what, err)
	}
	if !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Fatalf("%s with %s altered: the error does not name it: %v", path, what, err)
	}
}

func TestSwappedAndOlderFilesAreRefused(t *testing.T) {
	fs, base := newTestFS(t)
	for _, paths := range [][2]string{
		{"db/000001.sst", "db/000002.sst"},
		{"db/000001.blob", "db/000002.blob"},
		{"db/OPTIONS-000001", "db/OPTIONS-000002"},
		{"db/MANIFEST-000001", "db/MANIFEST-000002"},
		{"db/000001.sst", "db/000001.blob"},
	} {
		write(t, fs, paths[0], random(1, 5000))
		write(t, fs, paths[1], random(2, 5000))
		a, b := raw(t, base, paths[0]), raw(t, base, paths[1])
		setRaw(t, base, paths[0], b)
		_, err := read(fs, paths[0])
		wantAltered(t, err, paths[0])
		// A frame of the other file in this one.
		copy(a[headerSize:], b[headerSize:headerSize+frameSize])
		setRaw(t, base, paths[0], a)
		_, err = read(fs, paths[0])
		wantAltered(t, err, paths[0])
	}
	// Of a file written again under the same name, the older frames do not open.
	write(t, fs, "db/000009.sst", random(1, 9000))
	old := raw(t, base, "db/000009.sst")
	write(t, fs, "db/000009.sst", random(2, 9000))
	b := raw(t, base, "db/000009.sst")
	copy(b[headerSize:], old[headerSize:headerSize+frameSize])
	setRaw(t, base, "db/000009.sst", b)
	_, err := read(fs, "db/000009.sst")
	wantAltered(t, err, "db/000009.sst")
}

func TestAFileOfAnotherMemberIsRefused(t *testing.T) {
	fs, base := newTestFS(t)
	write(t, fs, "db/000001.sst", []byte("x"))
	other := New(base, newTestKeyring(t), Options{}) // same ids, other keys: as after a keyring was made over files
	_, err := read(other, "db/000001.sst")
	wantRefused(t, err, "db/000001.sst", "keyring")
	other.member.MemberID++
	_, err = read(other, "db/000001.sst")
	wantRefused(t, err, "db/000001.sst", "member")
}

func TestAnUnfinishedFileIsNotRead(t *testing.T) {
	fs, base := newTestFS(t)
	f, err := fs.Create("db/000001.sst", writeCategory)
	must(t, err)
	_, err = f.Write(random(1, 1<<20))
	must(t, err)
	_, err = read(fs, "db/000001.sst")
	wantAltered(t, err, "db/000001.sst")
	info, err := fs.Stat("db/000001.sst")
	must(t, err)
	if info.Size() != 1<<20 {
		t.Fatalf("Stat says %d", info.Size())
	}
	must(t, f.Close())
	_ = base
}

func TestReadFailuresAreNoCorruption(t *testing.T) {
	base := vfs.NewMem()
	must(t, base.MkdirAll("db", 0o700))
	kr := newTestKeyring(t)
	write(t, New(base, kr, Options{}), "db/000001.sst", random(1, 9000))
	fail := false
	fs := New(errorfs.Wrap(base, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail && op.Kind == errorfs.OpFileReadAt {
			return errorfs.ErrInjected
		}
		return nil
	})), kr, Options{})
	f, err := fs.Open("db/000001.sst")
	must(t, err)
	fail = true
	_, err = f.ReadAt(make([]byte, 10), 0)
	var altered *Error
	if !errors.Is(err, errorfs.ErrInjected) || errors.As(err, &altered) {
		t.Fatalf("got %v", err)
	}
	must(t, f.Close())
	if _, err = fs.Open("db/000001.sst"); !errors.Is(err, errorfs.ErrInjected) {
		t.Fatalf("got %v", err)
	}
}

func TestAFileCutWhileOpenIsAltered(t *testing.T) {
	base := vfs.Default
	dir := t.TempDir()
	fs := New(base, newTestKeyring(t), Options{})
	path := dir + "/000001.sst"
	write(t, fs, path, random(1, 5*tableFrame))
	f, err := fs.Open(path)
	must(t, err)
	defer f.Close()
	must(t, truncate(path, headerSize+2*frameSize+10))
	_, err = f.ReadAt(make([]byte, 100), 3*tableFrame)
	wantAltered(t, err, "000001.sst")
	if n, err := f.ReadAt(make([]byte, 100), tableFrame); n != 100 || err != nil {
		t.Fatal(n, err)
	}
}

func TestAFailedWriteIsNotFollowedByAnother(t *testing.T) {
	base := vfs.NewMem()
	must(t, base.MkdirAll("db", 0o700))
	for _, path := range []string{"db/000001.sst", "db/MANIFEST-000001"} {
		var fail errorfs.OpKind = -1
		fs := New(errorfs.Wrap(base, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == fail {
				return errorfs.ErrInjected
			}
			return nil
		})), newTestKeyring(t), Options{})
		f, err := fs.Create(path, writeCategory)
		must(t, err)
		_, err = f.Write(random(1, 100))
		must(t, err)
		fail = errorfs.OpFileSync
		if err := f.Sync(); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatal(err)
		}
		fail = -1
		if err := f.Sync(); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("%s: a failed sync was repeated: %v", path, err)
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("%s: a write after a failed sync: %v", path, err)
		}
		must(t, f.Close())
	}
}
