package seal

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// BenchmarkTableRead is what the size of a table's frames was chosen by:
//
//	go test ./seal -run '^$' -bench TableRead -benchtime 1s
//
// It reads blocks as Pebble does, at offsets that know nothing of frames, from a
// file in the page cache. "clear" is the same file without sealing.
func BenchmarkTableRead(b *testing.B) {
	const fileSize = 64 << 20
	for _, frame := range []int{0, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10} {
		dir := b.TempDir()
		var fs vfs.FS = vfs.Default
		name := "clear"
		if frame > 0 {
			sealed := New(vfs.Default, newTestKeyring(b), Options{})
			sealed.tableFrame = frame
			fs, name = sealed, fmt.Sprintf("frame=%dK", frame>>10)
		}
		path := dir + "/000001.sst"
		writeTestFile(b, fs, path, fileSize)
		f, err := fs.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		for _, block := range []int{4 << 10, 32 << 10} {
			for _, order := range []string{"random", "sequential"} {
				b.Run(fmt.Sprintf("%s/block=%dK/%s", name, block>>10, order), func(b *testing.B) {
					rng := rand.New(rand.NewPCG(1, 2))
					buf := make([]byte, block)
					off := int64(0)
					b.SetBytes(int64(block))
					b.ReportAllocs()
					defer reportCPU(b)()
					for b.Loop() {
						if order == "random" {
							off = rng.Int64N(fileSize - int64(block))
						} else if off += int64(block) + 37; off > fileSize-int64(block) {
							off = 0
						}
						if _, err := f.ReadAt(buf, off); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
		f.Close()
	}
}

// BenchmarkTableWrite writes tables in pieces like those that Pebble writes.
func BenchmarkTableWrite(b *testing.B) {
	for _, frame := range []int{0, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10} {
		var fs vfs.FS = vfs.Default
		name := "clear"
		if frame > 0 {
			sealed := New(vfs.Default, newTestKeyring(b), Options{})
			sealed.tableFrame = frame
			fs, name = sealed, fmt.Sprintf("frame=%dK", frame>>10)
		}
		b.Run(name, func(b *testing.B) {
			const fileSize = 8 << 20
			dir := b.TempDir()
			b.SetBytes(fileSize)
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				f, err := fs.Create(dir+"/000001.sst", writeCategory)
				if err != nil {
					b.Fatal(err)
				}
				buf := make([]byte, 16<<10)
				for n := 0; n < fileSize; n += len(buf) {
					if _, err := f.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Close(); err != nil { // without the sync, which would hide all else, in the clear
					b.Fatal(err)
				}
			}
		})
	}
}

// reportCPU adds the processor time of an operation to the results: on a busy
// machine it says more than the time that passed.
func reportCPU(b *testing.B) (done func()) {
	used := func() int64 {
		var u unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

func writeTestFile(t testing.TB, fs vfs.FS, path string, size int) {
	t.Helper()
	f, err := fs.Create(path, writeCategory)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{1})
	if _, err := io.CopyN(struct{ io.Writer }{f}, rng, int64(size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkSegmentAppend is the path of a write: one frame, and with "sync" one
// fdatasync.
func BenchmarkSegmentAppend(b *testing.B) {
	for _, size := range []int{300, 1 << 10, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			fs := New(vfs.NewMem(), newTestKeyring(b), Options{})
			var s *Segment
			payload := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for n := 0; b.Loop(); {
				if s == nil || !s.Fits(size) {
					b.StopTimer()
					if s != nil {
						s.Close()
					}
					n++
					var err error
					if s, err = fs.CreateSegment(fmt.Sprintf("%d.journal", n&1), 64<<20); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := s.Append(payload); err != nil {
					b.Fatal(err)
				}
				if err := s.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
