package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
)

var testMeta = SnapshotMeta{Member: testMember, Revision: 1234, Created: time.Unix(1_700_000_000, 123).UTC()}

// newSnapshot returns a snapshot of the content under two KEKs.
func newSnapshot(t testing.TB, content []byte) (snapshot []byte, keks [2]*kms.KEK) {
	t.Helper()
	keks = [2]*kms.KEK{newTestKEK(t), newTestKEK(t)}
	kr, err := keyring.Create(vfs.NewMem(), "KEYRING", testMember, keks[:]...)
	must(t, err)
	defer kr.Close() // neither keyring nor data directory is needed to read it
	var b bytes.Buffer
	w, err := NewSnapshotWriter(&b, kr, testMeta)
	must(t, err)
	for piece := range pieces(content, 10_001) {
		n, err := w.Write(piece)
		if n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	must(t, w.Close())
	if err := w.Close(); err == nil {
		t.Fatal("closed twice")
	}
	return b.Bytes(), keks
}

func readSnapshot(b []byte, keks ...*kms.KEK) ([]byte, error) {
	r, err := OpenSnapshot(bytes.NewReader(b), keks...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestSnapshotsOpenWithAnyOfTheirKEKs(t *testing.T) {
	for _, size := range []int{0, 1, snapshotData - 1, snapshotData, snapshotData + 1, 3*snapshotData + 7} {
		content := random(1, size)
		snapshot, keks := newSnapshot(t, content)
		for _, kek := range keks {
			got, err := readSnapshot(snapshot, newTestKEK(t), kek)
			must(t, err)
			if !bytes.Equal(got, content) {
				t.Fatalf("of %d bytes something else came out", size)
			}
		}
		if len(snapshot)%512 != sha256.Size {
			t.Fatalf("etcd's tools would not take %d bytes for a snapshot with a checksum", len(snapshot))
		}
		body, sum := snapshot[:len(snapshot)-sha256.Size], snapshot[len(snapshot)-sha256.Size:]
		if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
			t.Fatal("the checksum is wrong")
		}
		r, err := OpenSnapshot(iotest.OneByteReader(bytes.NewReader(snapshot)), keks[1])
		must(t, err)
		must(t, iotest.TestReader(r, content))
	}
}

func TestSnapshotsShowWhatTheyAreWithoutAKey(t *testing.T) {
	snapshot, keks := newSnapshot(t, random(1, 1000))
	meta, err := ReadSnapshotMeta(bytes.NewReader(snapshot))
	must(t, err)
	r, err := OpenSnapshot(bytes.NewReader(snapshot), keks[0])
	must(t, err)
	for _, m := range []SnapshotMeta{meta, r.Meta()} {
		if m.Member != testMember || m.Revision != 1234 || !m.Created.Equal(testMeta.Created) || len(m.KEKs) != 2 {
			t.Fatalf("%+v", m)
		}
		for i, kek := range keks {
			if m.KEKs[i].KEK != kek.ID() || m.KEKs[i].URI != kek.URI() {
				t.Fatalf("KEK %d is named as %s, %s", i, m.KEKs[i].KEK, m.KEKs[i].URI)
			}
		}
	}
	if _, err := OpenSnapshot(bytes.NewReader(snapshot), newTestKEK(t)); err == nil || !strings.Contains(err.Error(), keks[1].URI()) {
		t.Fatalf("opened with a wrong KEK, or the right ones are not named: %v", err)
	}
}

func TestAlteredSnapshotsAreRefused(t *testing.T) {
	content := random(1, 2*snapshotData+100)
	snapshot, keks := newSnapshot(t, content)
	refused := func(b []byte, what string) {
		t.Helper()
		got, err := readSnapshot(b, keks[0])
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Fatalf("%s: %d bytes, %v", what, len(got), err)
		}
		if !bytes.HasPrefix(content, got) {
			t.Fatalf("%s: something that is not authentic was read", what)
		}
	}
	for i := 0; i < len(snapshot); i += 1 + i/600 { // the header whole, the rest in steps
		b := bytes.Clone(snapshot)
		b[i] ^= 1
		refused(b, fmt.Sprintf("byte %d altered", i))
	}
	for n := 0; n < len(snapshot); n += 1 + n/100 {
		refused(snapshot[:n], fmt.Sprintf("cut to %d bytes", n))
	}
	refused(append(bytes.Clone(snapshot), 0), "a byte too many")
	head := len(snapshot) - sha256.Size - 2*snapshotFrame - (overhead+logPrefix+100+sector-1)/sector*sector
	if head%sector != 0 || head < sector {
		t.Fatal(head)
	}
	b := bytes.Clone(snapshot)
	copy(b[head:], snapshot[head+snapshotFrame:head+2*snapshotFrame])
	refused(b, "a frame twice")
	other, _ := newSnapshot(t, content)
	refused(append(bytes.Clone(snapshot[:head]), other[head:]...), "the frames of another snapshot")
}

func TestFailuresOfTheStreamAreReported(t *testing.T) {
	kr := newTestKeyring(t)
	w, err := NewSnapshotWriter(&limitedWriter{n: 100_000}, kr, testMeta)
	must(t, err)
	_, err = w.Write(random(1, 300_000))
	if !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
	snapshot, keks := newSnapshot(t, random(1, 200_000))
	broken := errors.New("broken")
	r, err := OpenSnapshot(io.MultiReader(bytes.NewReader(snapshot[:100_000]), iotest.ErrReader(broken)), keks[0])
	must(t, err)
	if _, err := io.ReadAll(r); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

type limitedWriter struct{ n int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
