package seal

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func pebbleOptions(fs vfs.FS) *pebble.Options {
	return &pebble.Options{FS: fs, DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, MemTableSize: 1 << 20,
		L0CompactionThreshold: 2, Logger: quiet{}}
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// batch i sets one key of its own, overwrites another, and counts itself.
func writeBatch(db *pebble.DB, i int) error {
	b := db.NewBatch()
	value := append([]byte(fmt.Sprintf("value of %d ", i)), random(uint64(i), 500)...)
	b.Set([]byte(fmt.Sprintf("key%08d", i)), value, nil)
	b.Set([]byte(fmt.Sprintf("key%08d", i/2)), value, nil)
	b.Set([]byte("count"), []byte(fmt.Sprint(i+1)), nil)
	return b.Commit(pebble.NoSync)
}

// checkBatches fails unless db holds exactly the first batches, and returns how
// many.
func checkBatches(db *pebble.DB) (n int, err error) {
	v, c, err := db.Get([]byte("count"))
	if errors.Is(err, pebble.ErrNotFound) {
		v, c, err = []byte("0"), ioCloser{}, nil
	}
	if err != nil {
		return 0, err
	}
	fmt.Sscan(string(v), &n)
	c.Close()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte("key"), UpperBound: []byte("kez")})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	i := 0
	for it.First(); it.Valid(); it.Next() {
		last := i // who wrote key i last
		for j := 2*i + 1; j < n; j = n {
			last = j
		}
		if 2*i < n && i > 0 {
			last = max(last, 2*i)
		}
		if i == 0 && n > 1 {
			last = 1
		}
		if string(it.Key()) != fmt.Sprintf("key%08d", i) || !bytes.HasPrefix(it.Value(), []byte(fmt.Sprintf("value of %d ", last))) {
			return n, fmt.Errorf("of %d batches: key %d is %q, %.20q", n, i, it.Key(), it.Value())
		}
		i++
	}
	if err := it.Error(); err != nil {
		return n, err
	}
	if i != n {
		return n, fmt.Errorf("%d keys of %d batches", i, n)
	}
	return n, nil
}

type ioCloser struct{}

func (ioCloser) Close() error { return nil }

func TestPebbleRunsOnSealedFilesWhileKeysRotate(t *testing.T) {
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		must(t, base.MkdirAll(dir, 0o700))
		fs := New(base, newTestKeyring(t), Options{})
		n := 0
		for range 3 {
			db, err := pebble.Open(dir, pebbleOptions(fs))
			must(t, err)
			it, err := db.NewIter(nil) // holds files open over all that follows
			must(t, err)
			for range 2500 {
				must(t, writeBatch(db, n))
				n++
			}
			must(t, db.Flush())
			_, err = fs.kr.Rotate()
			must(t, err)
			must(t, fs.ResealAll(t.Context(), nil, dir))
			must(t, db.Compact(t.Context(), []byte("a"), []byte("z"), true))
			must(t, db.Checkpoint(dir+"-checkpoint", pebble.WithFlushedWAL()))
			for it.First(); it.Valid(); it.Next() {
			}
			must(t, it.Close())
			must(t, fs.ResealAll(t.Context(), nil, dir))
			wantOnlyActive(t, fs, dir)
			got, err := checkBatches(db)
			if err != nil || got != n {
				t.Fatal(got, n, err)
			}
			must(t, db.Close())
			wantNothingOpen(t, fs)
			checkpoint, err := pebble.Open(dir+"-checkpoint", pebbleOptions(fs))
			must(t, err)
			if got, err := checkBatches(checkpoint); err != nil || got != n {
				t.Fatal("checkpoint", got, n, err)
			}
			must(t, checkpoint.Close())
			must(t, fs.ResealAll(t.Context(), nil, dir+"-checkpoint"))
			must(t, second(fs.RemoveUnused(dir, dir+"-checkpoint")))
			must(t, fs.RemoveAll(dir+"-checkpoint"))
		}
	}
}

// After a crash at any moment Pebble finds a prefix of the batches, and at least
// those that were flushed, while files are resealed all the time.
func TestPebbleSurvivesCrashesOnSealedFiles(t *testing.T) {
	base := vfs.NewCrashableMem()
	must(t, base.MkdirAll("db", 0o700))
	must(t, syncDir(base, "/"))
	kr := newTestKeyring(t)
	rng := newRand(1)
	n := 0
	for round := range rounds(3, 12) {
		fs := New(base, kr, Options{})
		must(t, fs.RemoveUnfinished("db"))
		db, err := pebble.Open("db", pebbleOptions(fs))
		must(t, err)
		n, err = checkBatches(db)
		must(t, err)
		var flushed atomic.Int64
		flushed.Store(int64(n))
		ctx, stop := context.WithCancel(t.Context())
		var resealer sync.WaitGroup
		resealer.Go(func() {
			for ctx.Err() == nil {
				if _, err := kr.Rotate(); err != nil {
					t.Error(err)
				}
				if err := fs.ResealAll(context.Background(), nil, "db"); err != nil {
					t.Error(err)
				}
			}
		})
		var next *vfs.MemFS
		for i := range 2000 {
			must(t, writeBatch(db, n))
			n++
			if i%500 == 499 {
				must(t, db.Flush())
				flushed.Store(int64(n))
			}
			if i%150 != 149 {
				continue
			}
			crashed := base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			least := int(flushed.Load())
			after := New(crashed, kr, Options{})
			must(t, after.RemoveUnfinished("db"))
			db2, err := pebble.Open("db", pebbleOptions(after))
			if err != nil {
				t.Fatalf("round %d, batch %d: %v", round, i, err)
			}
			got, err := checkBatches(db2)
			if err != nil || got < least {
				t.Fatalf("round %d, batch %d: %d batches, %d had been flushed, %v", round, i, got, least, err)
			}
			must(t, db2.Close())
			next = crashed
		}
		stop()
		resealer.Wait()
		must(t, db.Close())
		base = next
	}
}

// Coffer does not use Pebble's own log, but it is sealed like any other file.
func TestPebblesOwnLogIsSealedToo(t *testing.T) {
	base := vfs.NewCrashableMem()
	must(t, base.MkdirAll("db", 0o700))
	must(t, syncDir(base, "/"))
	kr := newTestKeyring(t)
	rng := newRand(1)
	n := 0
	for range 5 {
		o := pebbleOptions(New(base, kr, Options{}))
		o.DisableWAL, o.MemTableSize = false, 256<<10
		db, err := pebble.Open("db", o)
		must(t, err)
		got, err := checkBatches(db)
		if err != nil || got < n {
			t.Fatalf("%d batches of %d: %v", got, n, err)
		}
		n = got
		for range 1500 {
			must(t, writeBatch(db, n))
			n++
		}
		must(t, db.LogData([]byte("sync"), pebble.Sync))
		must(t, writeBatch(db, n)) // may be lost
		next := base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		must(t, db.Close())
		base = next
	}
}

// builtDB returns a file system with a closed database of n batches.
func builtDB(t testing.TB, n int) (*FS, *vfs.MemFS) {
	t.Helper()
	base := vfs.NewMem()
	must(t, base.MkdirAll("db", 0o700))
	fs := New(base, newTestKeyring(t), Options{})
	o := pebbleOptions(fs)
	o.DisableAutomaticCompactions = true
	db, err := pebble.Open("db", o)
	must(t, err)
	for i := range n {
		must(t, writeBatch(db, i))
		if i%(n/3) == 0 {
			must(t, db.Flush())
		}
	}
	must(t, db.Flush())
	must(t, db.Close())
	return fs, base
}

func clone(t testing.TB, base vfs.FS) *vfs.MemFS {
	t.Helper()
	c := vfs.NewMem()
	must(t, second(vfs.Clone(base, c, "db", "db")))
	return c
}

// openAndRead opens the database and reads all of it.
func openAndRead(fs vfs.FS) (n int, opened bool, err error) {
	o := pebbleOptions(fs)
	o.DisableAutomaticCompactions = true
	o.EventListener = &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}} // not the end of the process
	db, err := pebble.Open("db", o)
	if err != nil {
		return 0, false, err
	}
	n, err = checkBatches(db)
	return n, true, errors.Join(err, db.Close())
}

func TestPebbleReadsNothingOfAnAlteredFileAndDeletesNothing(t *testing.T) {
	const n = 3000
	fs, base := builtDB(t, n)
	all := names(t, base, "db")
	alter := map[string]func(b []byte) []byte{
		"header":      flip(70),
		"key id":      flip(50),
		"first frame": flip(headerSize + 300),
		"its length":  flip(headerSize + 1),
		"last byte":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"emptied":     func(b []byte) []byte { return nil },
		"cut":         func(b []byte) []byte { return b[:len(b)-sector] },
	}
	kinds := make(map[Kind]int)
	for _, name := range all {
		kind, ok := KindOf(name)
		if !ok {
			continue
		}
		kinds[kind]++
		for what, f := range alter {
			crashed := clone(t, base)
			before := raw(t, crashed, "db/"+name)
			if len(before) <= headerSize && strings.Contains("first frame its length", what) {
				continue
			}
			if kind.log() && what == "cut" {
				continue // between two frames: see CheckTail
			}
			after := f(bytes.Clone(before))
			setRaw(t, crashed, "db/"+name, after)
			got, opened, err := openAndRead(New(crashed, fs.kr, Options{}))
			if kind == KindPebbleLog && err == nil && got == n && len(after) < headerSize {
				continue // an empty log is what it was
			}
			if kind == KindOptions && err == nil && got == n {
				continue // Pebble does not read old options, and we ask it for nothing in them
			}
			if err == nil {
				t.Errorf("%s, %s altered: %d batches were read", name, what, got)
				continue
			}
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s, %s altered: the error does not name it: %v", name, what, err)
			}
			for _, was := range names(t, base, "db") {
				if k, _ := KindOf(was); opened && k != KindTable {
					continue // replaced by newer ones
				}
				if !slices.Contains(names(t, crashed, "db"), was) {
					t.Errorf("%s, %s altered: %s was deleted", name, what, was)
				}
			}
		}
	}
	for _, kind := range []Kind{KindTable, KindManifest, KindOptions, KindMarker, KindPebbleLog} {
		if kinds[kind] == 0 {
			t.Errorf("no %v in %v", kind, all)
		}
	}
}

// Left alone, Pebble opens a database whose MANIFEST was cut between two frames,
// and deletes the tables that it does not find there. This is why the tail is
// recorded, and checked before Pebble is opened.
func TestPebbleAloneDoesNotNoticeACutManifest(t *testing.T) {
	const n = 3000
	fs, base := builtDB(t, n)
	all := names(t, base, "db")
	manifest := "db/" + all[slices.IndexFunc(all, func(name string) bool { return strings.HasPrefix(name, "MANIFEST") })]
	tail, err := fs.LogTail(manifest)
	must(t, err)
	b := raw(t, base, manifest)
	setRaw(t, base, manifest, b[:len(b)-sector])
	wantAltered(t, fs.CheckTail(manifest, tail), manifest)
	tables := func() (n int) {
		for _, name := range names(t, base, "db") {
			if k, _ := KindOf(name); k == KindTable {
				n++
			}
		}
		return n
	}
	before := tables()
	got, _, err := openAndRead(fs)
	must(t, err)
	if got >= n || tables() >= before {
		t.Fatalf("%d batches, %d tables of %d: the trap that this test describes is gone", got, tables(), before)
	}
}

// With reads that fail now and then, every answer is right or an error.
func TestPebblesAnswersAreRightOrErrorsWhenReadsFail(t *testing.T) {
	const n = 2000
	fs, base := builtDB(t, n)
	failed := 0
	for at := int32(0); at < 400; at += 3 {
		inj := errorfs.OnIndex(-1)
		broken := New(errorfs.Wrap(base, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileReadAt || op.Kind == errorfs.OpOpen {
				return inj.MaybeError(op)
			}
			return nil
		})), fs.kr, Options{})
		o := pebbleOptions(broken)
		o.ReadOnly, o.CacheSize = true, 1
		inj.Store(at)
		db, err := pebble.Open("db", o)
		if err == nil {
			var got int
			got, err = checkBatches(db)
			if err == nil && got != n {
				t.Fatalf("failure %d: %d batches without an error", at, got)
			}
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			failed++
			if !errors.Is(err, errorfs.ErrInjected) {
				t.Fatalf("failure %d: %v", at, err)
			}
			if pebble.IsCorruptionError(err) && !strings.Contains(err.Error(), "injected") {
				t.Fatalf("failure %d is taken for corruption: %v", at, err)
			}
		}
	}
	if failed < 10 {
		t.Fatalf("only %d of the failures were met", failed)
	}
}

func TestNothingOfThePlaintextIsInAnyFile(t *testing.T) {
	mark := []byte("MARK-of-the-secret-plaintext")
	base := vfs.NewCrashableMem()
	must(t, base.MkdirAll("db", 0o700))
	must(t, base.MkdirAll("clear", 0o700))
	fs := New(base, newTestKeyring(t), Options{})
	fill := func(fs vfs.FS, dir string) *pebble.DB {
		o := pebbleOptions(fs)
		o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
			return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 100, MaxBlobReferenceDepth: 10}
		}
		db, err := pebble.Open(dir, o)
		must(t, err)
		for i := range 2000 {
			key := fmt.Appendf(nil, "%s-key-%06d", mark, i)
			must(t, db.Set(key, bytes.Repeat(append(mark, byte(i)), 1+i%30), pebble.NoSync))
		}
		must(t, db.Flush())
		must(t, db.Compact(t.Context(), []byte("A"), []byte("z"), false))
		return db
	}
	db := fill(fs, "db")
	s, err := fs.CreateSegment(seg, 1<<20)
	must(t, err)
	for range 50 {
		_, err := s.Append(bytes.Repeat(mark, 50))
		must(t, err)
		must(t, s.Sync())
	}
	var snapshot bytes.Buffer
	w, err := NewSnapshotWriter(&snapshot, fs.kr, SnapshotMeta{})
	must(t, err)
	_, err = w.Write(bytes.Repeat(mark, 10_000))
	must(t, err)
	must(t, w.Close())
	setRaw(t, base, "db/snapshot", snapshot.Bytes())

	if kinds := checkUnreadable(t, base, "db", mark); kinds < 6 {
		t.Fatalf("only %d kinds of files were there", kinds)
	}
	must(t, db.Close())
	checkUnreadable(t, base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: newRand(1)}), "db", mark)

	// The same search finds the mark where nothing is sealed.
	db = fill(base, "clear")
	defer db.Close()
	found := false
	for _, name := range names(t, base, "clear") {
		found = found || bytes.Contains(raw(t, base, "clear/"+name), mark)
	}
	if !found {
		t.Fatal("the search does not find the mark in the clear")
	}
}

// checkUnreadable fails if the mark is anywhere in dir, or if a file's frames can
// be compressed. It returns the number of kinds seen.
func checkUnreadable(t testing.TB, base vfs.FS, dir string, mark []byte) int {
	t.Helper()
	kinds := make(map[Kind]bool)
	marks := map[string][]byte{"plain": mark, "hex": []byte(hex.EncodeToString(mark)), "base64": []byte(base64.StdEncoding.EncodeToString(mark[:27]))}
	for _, name := range names(t, base, dir) {
		if name == "LOCK" {
			continue
		}
		b := raw(t, base, dir+"/"+name)
		for how, m := range marks {
			if bytes.Contains(b, m) {
				t.Errorf("%s contains the mark, %s", name, how)
			}
		}
		kind, ok := KindOf(name)
		kinds[kind] = kinds[kind] || ok
		body := b[min(len(b), headerSize):]
		body = body[:lastNonZero(body)] // of a segment, what was used
		var z bytes.Buffer
		c, _ := flate.NewWriter(&z, flate.BestCompression)
		c.Write(body)
		c.Close()
		if z.Len() < len(body)*99/100 {
			t.Errorf("%s can be compressed from %d to %d bytes", name, len(body), z.Len())
		}
	}
	return len(kinds)
}
