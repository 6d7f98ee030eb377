package seal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func TestOnlyNamesOfAKindCanBeMade(t *testing.T) {
	fs, _ := newTestFS(t)
	for _, path := range []string{"db/x", "db/LOCK", "db/KEYRING", "db/000001.sst.bak", "db/" + unfinished + "000001.sst", "db/1.journal"} {
		if f, err := fs.Create(path, writeCategory); err == nil {
			f.Close()
			t.Errorf("made %s", path)
		}
	}
	if _, err := fs.CreateSegment("db/000001.sst", 1<<16); err == nil {
		t.Error("made a journal segment named as a table")
	}
	long := "db/marker." + string(bytes.Repeat([]byte("x"), 300))
	if _, err := fs.Create(long, writeCategory); err == nil {
		t.Error("made a file whose name does not fit into its header")
	}
}

func TestMarkersMoveAsPebbleMovesThem(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, syncDir(base, "/"))
	for i := range 3 {
		m, value, err := atomicfs.LocateMarker(fs, "db", "manifest")
		must(t, err)
		if want := []string{"", "MANIFEST-000000", "MANIFEST-000001"}[i]; value != want {
			t.Fatalf("the marker says %q, not %q", value, want)
		}
		must(t, m.Move(fmt.Sprintf("MANIFEST-%06d", i)))
		must(t, m.Close())
		// Its header is durable although Pebble never synced it.
		after := New(base.CrashClone(vfs.CrashCloneCfg{}), fs.kr, Options{})
		value, err = atomicfs.ReadMarker(after, "db", "manifest")
		must(t, err)
		if want := fmt.Sprintf("MANIFEST-%06d", i); value != want {
			t.Fatalf("after a crash the marker says %q, not %q", value, want)
		}
	}
	f, err := fs.Create("db/marker.x.000001.y", writeCategory)
	must(t, err)
	if _, err := f.Write([]byte("x")); !errors.Is(err, errMarker) {
		t.Fatalf("a marker took content: %v", err)
	}
	must(t, f.Sync())
	must(t, f.Close())
}

func TestARenamedMarkerIsRefusedByEveryListing(t *testing.T) {
	fs, base := newTestFS(t)
	old, current := "db/marker.manifest.000001.MANIFEST-000001", "db/marker.manifest.000002.MANIFEST-000005"
	write(t, fs, old, nil)
	write(t, fs, current, nil)
	must(t, base.Rename(old, "db/marker.manifest.000003.MANIFEST-000001"))
	_, err := fs.List("db")
	wantAltered(t, err, "marker.manifest.000003.MANIFEST-000001")
	_, err = atomicfs.ReadMarker(fs, "db", "manifest")
	wantAltered(t, err, "marker.manifest.000003.MANIFEST-000001")
	must(t, base.Remove("db/marker.manifest.000003.MANIFEST-000001"))

	good := raw(t, base, current)
	for _, altered := range [][]byte{nil, good[:100], make([]byte, headerSize), append(bytes.Clone(good), 0)} {
		setRaw(t, base, current, altered)
		_, err := fs.List("db")
		wantAltered(t, err, "MANIFEST-000005")
	}
	setRaw(t, base, current, good)
	all, err := fs.List("db")
	must(t, err)
	if len(all) != 1 {
		t.Fatal(all)
	}
}

func TestMarkerCreationSurvivesACrashAtEveryPoint(t *testing.T) {
	for at := int32(0); ; at++ {
		fs, base := newTestFS(t)
		must(t, syncDir(base, "/"))
		write(t, fs, "db/marker.m.000001.a", nil)
		must(t, syncDir(base, "db"))
		inj := errorfs.OnIndex(at)
		broken := New(errorfs.Wrap(base, inj), fs.kr, Options{})
		f, failed := broken.Create("db/marker.m.000002.b", writeCategory)
		if failed == nil {
			must(t, f.Close())
			must(t, syncDir(base, "db"))
		}
		for seed := range uint64(20) {
			cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: newRand(seed)}
			value, err := atomicfs.ReadMarker(New(base.CrashClone(cfg), fs.kr, Options{}), "db", "m")
			if err != nil || value != "a" && value != "b" || failed == nil && value != "b" {
				t.Fatalf("failure %d, crash %d: %q, %v", at, seed, value, err)
			}
		}
		if failed == nil {
			return
		}
	}
}

func TestRenameToAnotherBaseNameSealsAnew(t *testing.T) {
	fs, base := newTestFS(t)
	content := random(1, 10_000)
	write(t, fs, "db/temporary.000003.dbtmp", content)
	must(t, fs.Rename("db/temporary.000003.dbtmp", "db/OPTIONS-000003"))
	got, err := read(fs, "db/OPTIONS-000003")
	must(t, err)
	if !bytes.Equal(got, content) {
		t.Fatal("read back something else")
	}
	if all := names(t, base, "db"); !slices.Equal(all, []string{"OPTIONS-000003"}) {
		t.Fatalf("files: %v", all)
	}
	// Over a file that is there, and to a log.
	write(t, fs, "db/temporary.000004.dbtmp", []byte("new"))
	must(t, fs.Rename("db/temporary.000004.dbtmp", "db/OPTIONS-000003"))
	must(t, fs.Rename("db/OPTIONS-000003", "db/MANIFEST-000001"))
	if got, err := read(fs, "db/MANIFEST-000001"); err != nil || string(got) != "new" {
		t.Fatal(got, err)
	}
	if err := fs.Rename("db/none.sst", "db/000001.sst"); !oserror.IsNotExist(err) {
		t.Fatal(err)
	}
	write(t, fs, "db/marker.m.000001.a", nil)
	if err := fs.Rename("db/marker.m.000001.a", "db/marker.m.000002.b"); err == nil {
		t.Fatal("renamed a marker")
	}
}

func TestRenameToAnotherDirectoryKeepsTheFile(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, base.MkdirAll("db2/sub", 0o700))
	write(t, fs, "db/000001.sst", random(1, 5000))
	before := raw(t, base, "db/000001.sst")
	must(t, fs.Rename("db/000001.sst", "db2/sub/000001.sst"))
	if !bytes.Equal(raw(t, base, "db2/sub/000001.sst"), before) {
		t.Fatal("sealed anew for nothing")
	}
	f, err := fs.Open("db2/sub/000001.sst")
	must(t, err)
	must(t, fs.Rename("db2", "db3"))
	_, err = fs.kr.Rotate()
	must(t, err)
	must(t, fs.Reseal(t.Context(), "db3/sub/000001.sst", nil)) // finds the handle under the new path
	if usage, err := fs.Inventory("db3"); err != nil || len(usage) != 1 || usage[0].Key != fs.kr.Active() {
		t.Fatal(usage, err)
	}
	if n, err := f.ReadAt(make([]byte, 10), 0); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	must(t, f.Close())
}

func TestLinkToAnotherBaseNameCopies(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, base.MkdirAll("checkpoint", 0o700))
	content := random(1, 5000)
	write(t, fs, "db/000001.sst", content)
	must(t, fs.Link("db/000001.sst", "checkpoint/000001.sst"))
	err := fs.Link("db/000001.sst", "db/000002.sst")
	if err == nil || oserror.IsExist(err) || oserror.IsNotExist(err) || oserror.IsPermission(err) {
		t.Fatalf("LinkOrCopy would not copy after %v", err)
	}
	must(t, vfs.LinkOrCopy(fs, "db/000001.sst", "db/000002.sst"))
	for _, path := range []string{"checkpoint/000001.sst", "db/000002.sst"} {
		got, err := read(fs, path)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatal(path, err)
		}
	}
	if err := fs.Link("db/none.sst", "checkpoint/none.sst"); !oserror.IsNotExist(err) {
		t.Fatal(err)
	}
}

func TestReuseForWriteKeepsNothing(t *testing.T) {
	fs, base := newTestFS(t)
	write(t, fs, "db/000001.log", random(1, 5000))
	f, err := fs.ReuseForWrite("db/000001.log", "db/000002.log", writeCategory)
	must(t, err)
	must(t, f.Close())
	if got, err := read(fs, "db/000002.log"); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	if all := names(t, base, "db"); len(all) != 1 {
		t.Fatal(all)
	}
}

func TestTheLockIsPlain(t *testing.T) {
	fs, base := newTestFS(t)
	l, err := fs.Lock("db/LOCK")
	must(t, err)
	if _, err := fs.Lock("db/LOCK"); err == nil {
		t.Fatal("locked twice")
	}
	if len(raw(t, base, "db/LOCK")) != 0 {
		t.Fatal("the lock has content")
	}
	if usage, err := fs.Inventory("db"); err != nil || len(usage) != 0 {
		t.Fatal(usage, err)
	}
	must(t, l.Close())
}

func TestRemoveAllForgetsOpenFiles(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, base.MkdirAll("db/sub", 0o700))
	write(t, fs, "db/sub/000001.sst", random(1, 5000))
	f, err := fs.Open("db/sub/000001.sst")
	must(t, err)
	must(t, fs.RemoveAll("db/sub"))
	usage, err := fs.Inventory("db")
	must(t, err)
	if len(usage) != 1 || usage[0].Files != 1 {
		t.Fatalf("an open file without a name is not counted: %v", usage)
	}
	must(t, f.Close())
	if usage, err := fs.Inventory("db"); err != nil || len(usage) != 0 {
		t.Fatal(usage, err)
	}
}

func TestWhatACrashLeftUnfinishedIsHiddenAndRemoved(t *testing.T) {
	fs, base := newTestFS(t)
	must(t, base.MkdirAll("db/sub", 0o700))
	for _, path := range []string{"db/" + unfinished + "marker.m.000009.x", "db/sub/" + unfinished + "000001.sst"} {
		setRaw(t, base, path, random(1, 700))
	}
	write(t, fs, "db/000001.sst", nil)
	all, err := fs.List("db")
	must(t, err)
	slices.Sort(all)
	if !slices.Equal(all, []string{"000001.sst", "sub"}) {
		t.Fatalf("listed %v", all)
	}
	must(t, fs.RemoveUnfinished("db", "none"))
	if all := names(t, base, "db/sub"); len(all) != 0 {
		t.Fatalf("left %v", all)
	}
	if _, err := read(fs, "db/000001.sst"); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedOpenReturnsNoFile(t *testing.T) {
	fs, base := newTestFS(t)
	setRaw(t, base, "db/000001.sst", random(1, 1000))
	for _, path := range []string{"db/none.sst", "db/000001.sst", "db/none", "db/x"} {
		if f, err := fs.Open(path); err == nil || f != nil {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
	if f, err := fs.Create("none/000001.sst", writeCategory); err == nil || f != nil {
		t.Errorf("%v, %v", f, err)
	}
}

func TestClosingLeavesNothingBehind(t *testing.T) {
	fs, _ := newTestFS(t)
	for _, path := range append(oncePaths, logPaths...) {
		write(t, fs, path, random(1, 100))
		_, err := read(fs, path)
		must(t, err)
	}
	s, err := fs.CreateSegment(seg, 1<<16)
	must(t, err)
	must(t, s.Close())
	_, _, err = readFrames(t, fs, seg)
	must(t, err)
	wantNothingOpen(t, fs)
}

func wantNothingOpen(t testing.TB, fs *FS) {
	t.Helper()
	if len(fs.open)+len(fs.unlinked)+len(fs.reseals)+len(fs.names.locks) > 0 {
		t.Fatalf("left: %v, %v, %v, %v", fs.open, fs.unlinked, fs.reseals, fs.names.locks)
	}
}
