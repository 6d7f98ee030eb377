package mvcc

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestReadingAheadGivesWhatTheFileHolds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 3*sequentialBytes+1000)
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	base := vfs.NewMem()
	f, err := base.Create("000001.sst", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(bytes.Clone(content)) // which may change what it is given: vfs.File says so
	f.Close()
	bad := &badPlace{FS: base, at: 2*sequentialBytes + 5000}
	for round := range 200 {
		f, err := sequentialFS{bad}.Open("000001.sst", vfs.SequentialReadsOption)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); ; {
			n := rng.IntN(20_000)
			if round%10 == 0 {
				n = rng.IntN(2 * sequentialBytes)
			}
			switch rng.IntN(20) {
			case 0:
				off = int64(rng.IntN(len(content)))
			case 1:
				off += int64(rng.IntN(3 * sequentialBytes))
			}
			p := make([]byte, n)
			got, err := f.ReadAt(p, off)
			want := content[min(int(off), len(content)):min(int(off)+n, len(content))]
			switch {
			case off <= bad.at && bad.at < off+int64(len(want)):
				if !errors.Is(err, errBadPlace) {
					t.Fatalf("%d bytes at %d, with a bad place at %d: %v", n, off, bad.at, err)
				}
			case err != nil && err != io.EOF || (err == io.EOF) != (len(want) < n) || !bytes.Equal(p[:got], want):
				t.Fatalf("%d bytes at %d: %d bytes, %v", n, off, got, err)
			}
			if off += int64(n); off >= int64(len(content)) {
				break
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// badPlace fails what reads a certain byte, and that only.
type badPlace struct {
	vfs.FS
	at int64
}

var errBadPlace = errors.New("a frame does not open")

func (b *badPlace) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	f, err := b.FS.Open(name)
	return badPlaceFile{f, b.at}, err
}

type badPlaceFile struct {
	vfs.File
	at int64
}

func (f badPlaceFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.at && f.at < off+int64(len(p)) {
		return 0, errBadPlace
	}
	return f.File.ReadAt(p, off)
}
