package seal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
)

var testMember = keyring.Member{ClusterID: 0xc1, MemberID: 0x3e}

func newTestKEK(t testing.TB) *kms.KEK {
	t.Helper()
	kek, err := kms.Create("file:" + filepath.Join(t.TempDir(), "kek"))
	must(t, err)
	t.Cleanup(kek.Close)
	return kek
}

func newTestKeyring(t testing.TB) *keyring.Keyring {
	t.Helper()
	kr, err := keyring.Create(vfs.NewMem(), "KEYRING", testMember, newTestKEK(t))
	must(t, err)
	t.Cleanup(kr.Close)
	return kr
}

// newTestFS returns a sealed file system on memory, with a directory "db".
func newTestFS(t testing.TB) (*FS, *vfs.MemFS) {
	t.Helper()
	base := vfs.NewCrashableMem()
	must(t, base.MkdirAll("db", 0o700))
	return New(base, newTestKeyring(t), Options{}), base
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantAltered fails unless err says that the file was altered, in a way that
// Pebble takes for corruption and for nothing else.
func wantAltered(t testing.TB, err error, name string) {
	t.Helper()
	var altered *Error
	switch {
	case !errors.As(err, &altered):
		t.Fatalf("got error %v, want an *Error", err)
	case !strings.HasSuffix(altered.File, name):
		t.Fatalf("the error names %s, not %s: %v", altered.File, name, err)
	case !pebble.IsCorruptionError(err):
		t.Fatalf("not corruption to Pebble: %v", err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		t.Fatalf("taken for the end of a file: %v", err)
	}
}

// raw returns the sealed bytes of a file.
func raw(t testing.TB, base vfs.FS, name string) []byte {
	t.Helper()
	f, err := base.Open(name)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

// setRaw replaces the sealed bytes of a file.
func setRaw(t testing.TB, base vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := base.Create(name, writeCategory)
	must(t, err)
	_, err = f.Write(bytes.Clone(b))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

// write makes a file of the given content, in pieces.
func write(t testing.TB, fs vfs.FS, name string, content []byte) {
	t.Helper()
	f, err := fs.Create(name, writeCategory)
	must(t, err)
	for piece := range pieces(content, 1777) {
		_, err := f.Write(bytes.Clone(piece))
		must(t, err)
	}
	must(t, f.Sync())
	must(t, f.Close())
}

// pieces yields b in pieces of n bytes.
func pieces(b []byte, n int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			piece := b[:min(n, len(b))]
			if !yield(piece) {
				return
			}
			b = b[len(piece):]
		}
	}
}

// read returns the content of a file, or the error of opening or reading it.
func read(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// rounds returns how often a test does something random: more if COFFER_LONG is
// set.
func rounds(short, long int) int {
	if os.Getenv("COFFER_LONG") != "" {
		return long
	}
	return short
}

// random returns n bytes, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	rand.NewChaCha8(key).Read(b)
	return b
}

func truncate(path string, size int64) error { return os.Truncate(path, size) }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// names lists a directory underneath.
func names(t testing.TB, base vfs.FS, dir string) []string {
	t.Helper()
	all, err := base.List(dir)
	must(t, err)
	return all
}

// oncePaths are names of the kinds that are written once.
var oncePaths = []string{"db/000001.sst", "db/000002.blob", "db/OPTIONS-000003", "db/temporary.000003.dbtmp", "db/x.snap", "db/ballast"}

// logPaths are names of the kinds that grow.
var logPaths = []string{"db/MANIFEST-000001", "db/000004.log", "db/x.audit"}
