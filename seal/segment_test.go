package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
)

var testMember = keyring.Member{ClusterID: 0xc1, MemberID: 0x3e}

func newTestKEK(t testing.TB) *kms.KEK {
	t.Helper()
	kek, err := kms.Create("file:" + filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kek.Close)
	return kek
}

func newTestKeyring(t testing.TB) *keyring.Keyring {
	t.Helper()
	kr, err := keyring.Create(vfs.NewMem(), "KEYRING", testMember, newTestKEK(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kr.Close)
	return kr
}

func TestSmoke(t *testing.T) {
	for _, base := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := t.TempDir()
		base.MkdirAll(dir, 0o700)
		fs := New(base, newTestKeyring(t), Options{})
		s, err := fs.CreateSegment(dir+"/1.journal", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var frames []Frame
		for i := range 10 {
			f, err := s.Append(bytes.Repeat([]byte{byte(i)}, 1000*i))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			frames = append(frames, f)
		}
		check := func() {
			i := 0
			end, err := fs.ReadSegment(dir+"/1.journal", func(f Frame, p []byte) error {
				if f != frames[i] || !bytes.Equal(p, bytes.Repeat([]byte{byte(i)}, 1000*i)) {
					t.Fatal(i)
				}
				i++
				return nil
			})
			if err != nil || end.Torn || end.Tail != s.Tail() || i != 10 {
				t.Fatal(end, err)
			}
		}
		check()
		p, err := s.ReadFrame(frames[7])
		if err != nil || len(p) != 7000 {
			t.Fatal(err)
		}
		if err := s.End(); err != nil {
			t.Fatal(err)
		}
		s.Close()
		check()
		s, err = fs.ReuseSegment(dir+"/1.journal", dir+"/2.journal")
		if err != nil {
			t.Fatal(err)
		}
		end, err := fs.ReadSegment(dir+"/2.journal", nil)
		if err != nil || end.Tail.Frames != 0 {
			t.Fatal(err)
		}
		s.Close()
		if base == vfs.Default {
			ls, _ := os.ReadDir(dir)
			if len(ls) != 1 {
				t.Fatal(ls)
			}
		}
	}
}
