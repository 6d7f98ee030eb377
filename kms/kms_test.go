package kms

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, path string) *KEK {
	t.Helper()
	kek, err := Create("file:" + path)
	must(t, err)
	t.Cleanup(kek.Close)
	return kek
}

func TestWhatIsWrappedOpensWithTheSameKeyAndContextOnly(t *testing.T) {
	dir := t.TempDir()
	kek, other := create(t, dir+"/kek"), create(t, dir+"/other")
	key, context := []byte("a key of some length or other"), []byte("what for")
	wrapped, err := kek.Wrap(key, context)
	must(t, err)
	got := make([]byte, len(key))
	must(t, kek.Unwrap(got, wrapped, context))
	if !bytes.Equal(got, key) {
		t.Fatal("another key came out")
	}
	again, err := kek.Wrap(key, context)
	must(t, err)
	if bytes.Equal(again, wrapped) {
		t.Fatal("two wraps of a key are the same")
	}
	for what, err := range map[string]error{
		"another KEK":     other.Unwrap(got, wrapped, context),
		"another context": kek.Unwrap(got, wrapped, []byte("else")),
		"another length":  kek.Unwrap(got[1:], wrapped, context),
		"nothing":         kek.Unwrap(got, nil, context),
		"a short wrap":    kek.Unwrap(nil, wrapped[:10], context),
	} {
		if !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "file:"+dir) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range wrapped {
		wrapped[i] ^= 1
		if err := kek.Unwrap(got, wrapped, context); !errors.Is(err, ErrWrongKey) {
			t.Fatalf("with byte %d altered: %v", i, err)
		}
		wrapped[i] ^= 1
	}
}

func TestIDNamesTheKeyAndNotTheFile(t *testing.T) {
	dir := t.TempDir()
	a, b := create(t, dir+"/a"), create(t, dir+"/b")
	if a.ID() == b.ID() || len(a.ID()) != 32 {
		t.Fatalf("ids %s and %s", a.ID(), b.ID())
	}
	must(t, os.Rename(dir+"/a", dir+"/c"))
	c, err := Open("file:" + dir + "/c")
	must(t, err)
	defer c.Close()
	if c.ID() != a.ID() || c.URI() != "file:"+dir+"/c" {
		t.Fatalf("id %s became %s when the file moved", a.ID(), c.ID())
	}
}

func TestCreateKeepsTheKeyThatIsThere(t *testing.T) {
	path := t.TempDir() + "/kek"
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			kek, err := Create("file:" + path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = kek.ID()
			kek.Close()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("a race made several keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o600 || info.Size() != 32 {
		t.Fatalf("mode %v, %d bytes", info.Mode(), info.Size())
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Fatalf("left over: %v", files)
	}
}

func TestEveryBadKEKIsRefusedWithItsRemedy(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, make([]byte, size), 0o600))
		must(t, os.Chmod(path, mode))
		return path
	}
	must(t, unix.Mkfifo(dir+"/pipe", 0o600))
	for _, c := range []struct{ uri, says, remedy string }{
		{"", "no KEK", "file:PATH"},
		{"/etc/kek", "no scheme", "write file:/etc/kek"},
		{"vault:key", `"vault" is not known`, "file:PATH"},
		{"file:", "names no file", "file:PATH"},
		{"file:kek", "relative", "whole path"},
		{"file:./kek", "relative", "whole path"},
		{"file:" + dir + "/missing", "no such file", "head -c 32 /dev/urandom > " + dir + "/missing"},
		{"file:" + file("short", 31, 0o600), "31 bytes", "raw key"},
		{"file:" + file("long", 33, 0o600), "33 bytes", "end of line"},
		{"file:" + file("empty", 0, 0o600), "0 bytes", "restore"},
		{"file:" + file("world", 32, 0o604), "mode 0604", "chmod 600 " + dir + "/world"},
		{"file:" + file("group", 32, 0o640), "mode 0640", "chmod 600 " + dir + "/group"},
		{"file:" + file("others-write", 32, 0o602), "mode 0602", "chmod 600"},
		{"file:" + dir, "not a regular file", "name a file"},
		{"file:" + dir + "/pipe", "not a regular file", "name a file"},
		{"file:/dev/zero", "not a regular file", "name a file"},
	} {
		kek, err := Open(c.uri)
		if err == nil {
			kek.Close()
			t.Errorf("%s was opened", c.uri)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%s: %q says neither what is wrong (%q) nor what to do (%q)", c.uri, err, c.says, c.remedy)
		}
	}
	if _, err := Create("file:" + dir + "/none/kek"); err == nil || !strings.Contains(err.Error(), "directory must exist") {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		if _, err := Open("file:" + file("unreadable", 32, 0)); err == nil || !strings.Contains(err.Error(), "uid") {
			t.Error(err)
		}
	}
}

func TestASymbolicLinkToAKeyIsAKey(t *testing.T) {
	dir := t.TempDir()
	kek := create(t, dir+"/kek")
	must(t, os.Symlink("kek", dir+"/link")) // as Kubernetes mounts secrets
	link, err := Open("file:" + dir + "/link")
	must(t, err)
	defer link.Close()
	if link.ID() != kek.ID() {
		t.Fatal("another key")
	}
}

func TestAClosedKEKIsOfNoUse(t *testing.T) {
	kek, err := Create("file:" + t.TempDir() + "/kek")
	must(t, err)
	kek.Close()
	kek.Close()
	if _, err := kek.Wrap([]byte("x"), nil); err == nil {
		t.Fatal("wrapped with a closed KEK")
	}
}

func TestSecretsAreLockedAndNotDumped(t *testing.T) {
	s, err := NewSecret(100)
	must(t, err)
	defer s.Wipe()
	if len(s.Bytes()) != 100 || cap(s.Bytes()) != 100 || bytes.ContainsFunc(s.Bytes(), func(r rune) bool { return r != 0 }) {
		t.Fatal("a new secret is not 100 zero bytes")
	}
	flags := vmFlags(t, s.Bytes())
	if !strings.Contains(flags, " dd") {
		t.Errorf("the pages would be dumped: %s", flags)
	}
	if LockError() == nil && !strings.Contains(flags, " lo") {
		t.Errorf("the pages are not locked: %s", flags)
	}
}

func TestAFailureToLockNamesTheLimit(t *testing.T) {
	recordLockError(4096, unix.ENOMEM)
	err := LockError()
	if err == nil || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK, now ") {
		t.Fatal(err)
	}
	lockFailure.err = nil
}

// A key that has no name until it is whole leaves nothing behind after a crash.
func TestAKeyInTheMakingHasNoName(t *testing.T) {
	dir := t.TempDir()
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		t.Skipf("the file system knows no nameless files: %v", err)
	}
	f.Close()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO)
	must(t, err)
	create(t, dir+"/kek")
	events := make([]byte, 4096)
	n, err := unix.Read(fd, events)
	must(t, err)
	if n != unix.SizeofInotifyEvent+16 || string(bytes.TrimRight(events[unix.SizeofInotifyEvent:n], "\x00")) != "kek" {
		t.Fatalf("other names than the key's appeared: %q", events[:n])
	}
}

// Where a file cannot do without a name, a crash leaves one.
func TestWhatACrashLeftIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/.kek-1", bytes.Repeat([]byte{1}, kekSize), 0o600))
	left, err := Open("file:" + dir + "/.kek-1")
	must(t, err)
	defer left.Close()
	if create(t, dir+"/kek").ID() == left.ID() {
		t.Fatal("a left-over became the key")
	}
}

func TestAKeyOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := t.TempDir() + "/kek"
	create(t, path)
	must(t, os.Chown(path, 12345, -1))
	if _, err := Open("file:" + path); err == nil || !strings.Contains(err.Error(), "user 12345") || !strings.Contains(err.Error(), "chown 0 "+path) {
		t.Fatalf("a file of another user: %v", err)
	}
}
