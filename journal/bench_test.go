package journal

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/seal"
)

// BenchmarkAppend appends batches of entries of 1 KiB, synced, on the disk under TMPDIR.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			j, err := Open(Options{FS: seal.New(vfs.Default, newKeyring(b), seal.Options{}), Dir: dir})
			require.NoError(b, err)
			defer j.Close()
			data := make([]byte, 1024)
			b.SetBytes(int64(n * len(data)))
			b.ReportAllocs()
			for b.Loop() {
				ents := make([]*raftpb.Entry, n)
				first := j.LastIndex() + 1
				for i := range ents {
					ents[i] = entry(first+uint64(i), 1, data)
				}
				if err := j.Append(ents, hardState(1, 1, first-1), true); err != nil {
					b.Fatal(err)
				}
				if j.Size() > 256<<20 {
					b.StopTimer()
					cut(b, j, j.LastIndex())
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkOpen opens a journal of 100,000 entries of 1 KiB in batches of 64, as after a crash.
func BenchmarkOpen(b *testing.B) {
	dir, kr := b.TempDir(), newKeyring(b)
	fs := seal.New(vfs.Default, kr, seal.Options{})
	j, err := Open(Options{FS: fs, Dir: dir})
	require.NoError(b, err)
	for range 100_000 / 64 {
		ents := make([]*raftpb.Entry, 64)
		for i := range ents {
			ents[i] = entry(j.LastIndex()+1+uint64(i), 1, make([]byte, 1024))
		}
		require.NoError(b, j.Append(ents, nil, true))
	}
	require.NoError(b, j.Close())
	for b.Loop() {
		j, err := Open(Options{FS: fs, Dir: dir})
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, j.Close())
		b.StartTimer()
	}
}

// BenchmarkEntries reads 64 entries of 1 KiB, from memory and from a segment.
func BenchmarkEntries(b *testing.B) {
	for _, cached := range []bool{true, false} {
		b.Run(fmt.Sprintf("cached=%t", cached), func(b *testing.B) {
			dir := b.TempDir()
			j, err := Open(Options{FS: seal.New(vfs.Default, newKeyring(b), seal.Options{}), Dir: dir})
			require.NoError(b, err)
			defer j.Close()
			if !cached {
				j.cache.bound = 0
			}
			for range 100 {
				ents := make([]*raftpb.Entry, 64)
				for i := range ents {
					ents[i] = entry(j.LastIndex()+1+uint64(i), 1, make([]byte, 1024))
				}
				require.NoError(b, j.Append(ents, nil, true))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := j.Entries(1001, 1065, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
