package mvcc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
)

// chain is a history of which any state tells which batch it must be the one after: batch i puts the keys "i/0",
// "i/1" ... of values of its own, overwrites "last" and a record, deletes the first key of the batch before, and
// sometimes compacts. Some batches are larger than a memtable.
type chain struct {
	rnd *rand.Rand
	db  *DB
	n   uint64
}

func chainValue(i uint64, j int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("%d/%d ", i, j), 1+int(i*7+uint64(j)*13)%40))
}

func chainKeys(i uint64) int {
	if i%17 == 0 {
		return 200
	}
	return 1 + int(i%4)
}

func (c *chain) commit(t *testing.T) {
	c.n++
	b := c.db.Begin()
	tx := b.Txn()
	for j := range chainKeys(c.n) {
		tx.Put(fmt.Appendf(nil, "%d/%d", c.n, j), chainValue(c.n, j), 0)
	}
	tx.Put([]byte("last"), fmt.Append(nil, c.n), 0)
	tx.End()
	tx = b.Txn()
	tx.DeleteRange(fmt.Appendf(nil, "%d/0", c.n-1), nil)
	tx.End()
	b.SetMeta("test", []byte("last"), fmt.Append(nil, c.n))
	if c.n%5 == 0 {
		if err := b.Compact(b.Revision() - int64(c.n%3)); !errors.Is(err, ErrCompacted) {
			require.NoError(t, err)
		}
	}
	_, err := b.Commit(c.n, 1)
	require.NoError(t, err)
}

// checkChain checks that the store is in the state after the batch that its applied index names, and in no other.
func checkChain(t *testing.T, db *DB, atLeast, atMost uint64) {
	t.Helper()
	n, _ := db.Applied()
	require.GreaterOrEqual(t, n, atLeast)
	require.LessOrEqual(t, n, atMost)
	if n == 0 {
		return
	}
	v := db.View()
	defer v.Close()
	res, err := v.Range(context.Background(), []byte{0}, []byte{0}, RangeOptions{})
	require.NoError(t, err)
	want := 2 // "last", and the first key of the last batch
	for i := uint64(1); i <= n; i++ {
		want += chainKeys(i) - 1
	}
	require.EqualValues(t, want, res.Count)
	for _, kv := range res.KVs {
		if string(kv.Key) == "last" {
			require.Equal(t, fmt.Sprint(n), string(kv.Value))
			continue
		}
		var i uint64
		var j int
		_, err := fmt.Sscanf(string(kv.Key), "%d/%d", &i, &j)
		require.NoError(t, err)
		require.Equal(t, chainValue(i, j), kv.Value)
	}
	require.NoError(t, db.RangeMeta("test", func(_, value []byte) error {
		require.Equal(t, fmt.Sprint(n), string(value))
		return nil
	}))
	require.EqualValues(t, max(2*int64(n), 2), v.Revision()) // the first batch has nothing to delete
}

func TestACrashLeavesTheStateAfterOneOfTheBatches(t *testing.T) {
	batches := 150
	if long() {
		batches = 3000
	}
	for _, memTable := range []uint64{4 << 10, 64 << 10} {
		t.Run(fmt.Sprint("memtable=", memTable), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			o := Options{FS: fs, Dir: "db", MemTableBytes: memTable}
			db, err := Open(o)
			require.NoError(t, err)
			c := &chain{rnd: rand.New(rand.NewPCG(1, memTable)), db: db}
			for range batches {
				c.commit(t)
				switch c.rnd.IntN(20) {
				case 0:
					require.NoError(t, db.Flush())
					durable, err := db.DurableApplied()
					require.NoError(t, err)
					require.Equal(t, c.n, durable)
				case 1, 2, 3:
					// While flushes, compactions and removals go on in the background.
					durable, err := db.DurableApplied()
					require.NoError(t, err)
					o.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rnd.IntN(101), RNG: c.rnd})
					crashed, err := Open(o)
					require.NoError(t, err)
					checkChain(t, crashed, durable, c.n)
					v := crashed.View()
					require.NoError(t, crashed.WaitCompacted(context.Background(), v.CompactRevision()))
					v.Close()
					checkChain(t, crashed, durable, c.n)
					require.NoError(t, crashed.Close())
				}
			}
			checkChain(t, db, c.n, c.n)
			require.NoError(t, db.Close())
		})
	}
}

// died waits for ever: what a Fatal that must not return does in a test.
func died(errs chan<- error) func(error) {
	return func(err error) {
		select {
		case errs <- err:
		default:
		}
		select {}
	}
}

func TestAFullDiskLosesNothingAndIsLeftBehind(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var full atomic.Bool
	var refused atomic.Int64
	injected := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".sst") {
			refused.Add(1)
			return syscall.ENOSPC
		}
		return nil
	}))
	errs := make(chan error, 1)
	db, err := Open(Options{FS: injected, Dir: "db", MemTableBytes: 64 << 10, Fatal: died(errs)})
	require.NoError(t, err)
	c := &chain{rnd: rand.New(rand.NewPCG(1, 1)), db: db}
	c.commit(t)
	require.NoError(t, db.Flush())
	full.Store(true)
	c.commit(t)
	flushed := make(chan error, 1)
	go func() { flushed <- db.Flush() }()
	require.Eventually(t, func() bool { return refused.Load() > 2 }, 10*time.Second, time.Millisecond)
	checkChain(t, db, 2, 2) // reads are served meanwhile
	full.Store(false)
	require.NoError(t, <-flushed)
	durable, err := db.DurableApplied()
	require.NoError(t, err)
	require.EqualValues(t, 2, durable)
	c.commit(t)
	require.NoError(t, db.Close())
	require.Empty(t, errs)
	db, err = Open(Options{FS: fs, Dir: "db"})
	require.NoError(t, err)
	checkChain(t, db, 3, 3)
	require.NoError(t, db.Close())
}

func TestAFailingDiskEndsTheProcessAndWhatWasDurableStays(t *testing.T) {
	for name, ops := range map[string][]errorfs.OpKind{
		"sync":   {errorfs.OpFileSync, errorfs.OpFileSyncData},
		"write":  {errorfs.OpFileWrite},
		"create": {errorfs.OpCreate},
	} {
		for _, file := range []string{".sst", "MANIFEST"} {
			t.Run(name+" of "+file, func(t *testing.T) {
				fs := vfs.NewCrashableMem()
				var failing atomic.Bool
				injected := errorfs.Wrap(fs, errorfs.InjectorFunc(func(o errorfs.Op) error {
					if failing.Load() && slices.Contains(ops, o.Kind) && strings.Contains(o.Path, file) {
						return syscall.EIO
					}
					return nil
				}))
				errs := make(chan error, 1)
				o := Options{FS: injected, Dir: "db", Fatal: died(errs), tune: func(p *pebble.Options) { p.MaxManifestFileSize = 1 }}
				db, err := Open(o)
				require.NoError(t, err)
				c := &chain{rnd: rand.New(rand.NewPCG(1, 1)), db: db}
				c.commit(t)
				require.NoError(t, db.Flush())
				c.commit(t)
				failing.Store(true)
				go db.Flush()
				select {
				case err := <-errs:
					require.ErrorIs(t, err, syscall.EIO)
				case <-time.After(20 * time.Second):
					t.Fatal("the failure was not noticed")
				}
				db, err = Open(Options{FS: fs.CrashClone(vfs.CrashCloneCfg{}), Dir: "db"})
				require.NoError(t, err)
				checkChain(t, db, 1, 2)
				require.NoError(t, db.Close())
			})
		}
	}
}

func TestADamagedTableIsAnErrorAndNeverAMissingKey(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{FS: fs, Dir: "db", tune: func(p *pebble.Options) {
		// These read the tables in the background, which would end the process.
		p.DisableAutomaticCompactions, p.DisableTableStats = true, true
	}}
	db, err := Open(o)
	require.NoError(t, err)
	c := &chain{rnd: rand.New(rand.NewPCG(1, 1)), db: db}
	for range 60 {
		c.commit(t)
	}
	require.NoError(t, db.Close())
	names, err := fs.List("db")
	require.NoError(t, err)
	damaged := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite("db/"+name, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		for at := int64(0); at < info.Size(); at += 97 {
			var b [1]byte
			_, err = f.ReadAt(b[:], at)
			require.NoError(t, err)
			flip := func() {
				b[0] ^= 0x40
				_, err := f.WriteAt(b[:], at)
				require.NoError(t, err)
			}
			flip()
			db, err := Open(o)
			if err == nil {
				// The bytes that were hit are not needed for the index: what is answered must still be right.
				v := db.View()
				_, err = v.Range(context.Background(), []byte{0}, []byte{0}, RangeOptions{})
				if err == nil {
					_, _, err = v.Events(context.Background(), v.CompactRevision(), v.Revision(), EventsOptions{})
				}
				v.Close()
				if err == nil {
					checkChain(t, db, c.n, c.n)
				}
				require.NoError(t, db.Close())
			}
			if err != nil {
				damaged++
			}
			flip()
		}
		require.NoError(t, f.Close())
	}
	require.Greater(t, damaged, 50)
}

func TestAnImportThatWasInterruptedDoesNotOpen(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db, err := Open(Options{FS: fs, Dir: "db"})
	require.NoError(t, err)
	c := &chain{rnd: rand.New(rand.NewPCG(1, 1)), db: db}
	for range 40 {
		c.commit(t)
	}
	var stream strings.Builder
	require.NoError(t, db.Export(context.Background(), &stream))
	require.NoError(t, db.Close())
	whole := stream.String()
	for _, n := range []int{0, 5, len(streamMagic), 200, len(whole) / 2, len(whole) - 5, len(whole) - 1} {
		fs := vfs.NewCrashableMem()
		o := Options{FS: fs, Dir: "db"}
		_, err := Import(context.Background(), o, strings.NewReader(whole[:n]))
		require.ErrorIs(t, err, errStream)
		_, err = Open(o)
		require.ErrorContains(t, err, "interrupted")
		_, err = Import(context.Background(), o, strings.NewReader(whole))
		require.Error(t, err)
	}
	for range 300 {
		b := []byte(whole)
		b[c.rnd.IntN(len(b))] ^= 1 << c.rnd.IntN(8)
		o := Options{FS: vfs.NewCrashableMem(), Dir: "db"}
		_, err := Import(context.Background(), o, strings.NewReader(string(b)))
		require.ErrorIs(t, err, errStream)
	}
	o := Options{FS: fs, Dir: "copy"}
	db, err = Import(context.Background(), o, strings.NewReader(whole))
	require.NoError(t, err)
	checkChain(t, db, c.n, c.n)
	require.NoError(t, db.Close())
}
