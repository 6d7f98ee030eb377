package mvcc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The benchmarks run on a plain file system in a temporary directory; COFFER_BENCH_KEYS sets how many keys the larger
// ones use (100,000).

func benchKeys() int {
	if n, err := strconv.Atoi(os.Getenv("COFFER_BENCH_KEYS")); err == nil {
		return n
	}
	return 100_000
}

func benchKey(buf []byte, i int) []byte {
	return fmt.Appendf(buf[:0], "/registry/pods/namespace-%03d/pod-%08d", i%50, i)
}

func openBench(b *testing.B, dir string) *DB {
	b.Helper()
	db, err := Open(Options{FS: vfs.Default, Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

// startCPU begins the measured part of a benchmark. The function that it returns reports the processor time that
// the whole process took for an operation: it says more than the time that passed when the machine is shared.
func startCPU(b *testing.B) func() {
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.ResetTimer()
	start := cpu()
	return func() { b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op") }
}

// loadBench puts keys 0 to n in random order, in batches of 100, and returns the last index.
func loadBench(b *testing.B, db *DB, n, valueSize int) uint64 {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	order := rnd.Perm(n)
	value := make([]byte, valueSize)
	index, _ := db.Applied()
	var key []byte
	for len(order) > 0 {
		batch := db.Begin()
		m := min(100, len(order))
		for _, i := range order[:m] {
			fillRandom(rnd, value)
			key = benchKey(key, i)
			t := batch.Txn()
			t.Put(key, value, 0)
			t.End()
		}
		order = order[m:]
		index++
		if _, err := batch.Commit(index, 1); err != nil {
			b.Fatal(err)
		}
	}
	return index
}

func fillRandom(rnd *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
}

// BenchmarkPutBatch measures a put of 1 KiB to one of many keys, in batches as the apply loop makes them.
func BenchmarkPutBatch(b *testing.B) {
	for _, size := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			db := openBench(b, b.TempDir())
			defer db.Close()
			index := loadBench(b, db, benchKeys(), 64)
			rnd := rand.New(rand.NewPCG(1, 1))
			value := make([]byte, 1024)
			fillRandom(rnd, value)
			var key []byte
			b.ReportAllocs()
			defer startCPU(b)()
			for i := 0; i < b.N; {
				batch := db.Begin()
				for range min(size, b.N-i) {
					key = benchKey(key, rnd.IntN(benchKeys()))
					t := batch.Txn()
					t.Put(key, value, 0)
					t.End()
					i++
				}
				index++
				if _, err := batch.Commit(index, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, flushed := range []bool{false, true} {
		b.Run(fmt.Sprint("flushed=", flushed), func(b *testing.B) {
			db := openBench(b, b.TempDir())
			defer db.Close()
			loadBench(b, db, benchKeys(), 1024)
			if flushed {
				db.Flush()
				db.Reclaim(context.Background())
			}
			rnd := rand.New(rand.NewPCG(1, 1))
			var key []byte
			b.ReportAllocs()
			defer startCPU(b)()
			for range b.N {
				key = benchKey(key, rnd.IntN(benchKeys()))
				v := db.View()
				r, err := v.Range(context.Background(), key, nil, RangeOptions{})
				v.Close()
				if err != nil || len(r.KVs) != 1 {
					b.Fatal(err, r.Count)
				}
			}
		})
	}
}

// BenchmarkList measures a page of 500 at the beginning, in the middle and at the end of the range, at the newest
// revision, at one whose index is remembered, and at one that has to be looked for in Pebble.
func BenchmarkList(b *testing.B) {
	db := openBench(b, b.TempDir())
	defer db.Close()
	n := benchKeys()
	index := loadBench(b, db, n, 1024)
	db.Flush()
	db.Reclaim(context.Background())
	prefix, end := []byte("/registry/pods/"), []byte("/registry/pods0")
	v := db.View()
	pinned := v.Revision()
	if _, err := v.Range(context.Background(), prefix, end, RangeOptions{Limit: 500}); err != nil {
		b.Fatal(err)
	}
	v.Close()
	rnd := rand.New(rand.NewPCG(2, 2))
	value := make([]byte, 1024)
	var key []byte
	for range n / 1000 {
		batch := db.Begin()
		for range 10 {
			key = benchKey(key, rnd.IntN(n))
			t := batch.Txn()
			t.Put(key, value, 0)
			t.End()
		}
		index++
		if _, err := batch.Commit(index, 1); err != nil {
			b.Fatal(err)
		}
	}
	places := map[string][]byte{"begin": prefix}
	places["middle"] = []byte("/registry/pods/namespace-025/")
	places["end"] = []byte("/registry/pods/namespace-049/pod-")
	for _, rev := range []struct {
		name string
		rev  int64
	}{{"newest", 0}, {"remembered", pinned}, {"historical", pinned - 1}} {
		for _, place := range []string{"begin", "middle", "end"} {
			b.Run(rev.name+"/"+place, func(b *testing.B) {
				b.ReportAllocs()
				defer startCPU(b)()
				items := 0
				for range b.N {
					v := db.View()
					r, err := v.Range(context.Background(), places[place], end, RangeOptions{Rev: rev.rev, Limit: 500})
					v.Close()
					if err != nil || r.Count == 0 {
						b.Fatal(err, r.Count)
					}
					items += len(r.KVs)
				}
				b.ReportMetric(float64(items)/b.Elapsed().Seconds(), "items/s")
			})
		}
	}
}

// BenchmarkOpen measures a start, which builds the index.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	db := openBench(b, dir)
	loadBench(b, db, benchKeys(), 256)
	db.Reclaim(context.Background())
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	defer startCPU(b)()
	for range b.N {
		db := openBench(b, dir)
		b.StopTimer()
		if n := db.view.Load().tree.len(); n != benchKeys() {
			b.Fatal(n)
		}
		db.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*float64(benchKeys())/b.Elapsed().Seconds(), "keys/s")
}

// BenchmarkIndexMemory reports what the index takes for a key, built by a scan and by random puts.
func BenchmarkIndexMemory(b *testing.B) {
	for _, random := range []bool{false, true} {
		b.Run(fmt.Sprint("random=", random), func(b *testing.B) {
			n := benchKeys()
			order := make([]int, n)
			for i := range order {
				order[i] = i
			}
			if random {
				order = rand.New(rand.NewPCG(1, 1)).Perm(n)
			}
			var before, after runtime.MemStats
			for range b.N {
				runtime.GC()
				runtime.ReadMemStats(&before)
				t := tree{}.edit()
				var key []byte
				start := time.Now()
				for j, i := range order {
					if random && j%100 == 0 {
						t = t.edit()
					}
					key = fmt.Appendf(key[:0], "/registry/pods/namespace-%03d/pod-%08d", i*50/n, i)
					t.set(key, Meta{Create: int64(i + 2), Mod: Rev{int64(i + 2), 0}, Version: 1})
				}
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(n), "ns/key")
				b.ReportMetric(float64(t.copied)/float64(n), "copiedB/key")
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/key")
				runtime.KeepAlive(t)
			}
		})
	}
}

// BenchmarkHashKV measures the hash of a history.
func BenchmarkHashKV(b *testing.B) {
	db := openBench(b, b.TempDir())
	defer db.Close()
	loadBench(b, db, benchKeys(), 1024)
	defer startCPU(b)()
	for range b.N {
		if _, err := db.HashKV(context.Background(), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(benchKeys())/b.Elapsed().Seconds(), "changes/s")
}
