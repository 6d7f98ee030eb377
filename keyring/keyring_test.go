package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/cofferkv/coffer/kms"
	"github.com/prometheus/client_golang/prometheus"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKEK(t testing.TB) *kms.KEK {
	t.Helper()
	kek, err := kms.Create("file:" + t.TempDir() + "/kek")
	must(t, err)
	t.Cleanup(kek.Close)
	return kek
}

var member = Member{ClusterID: 0xc1, MemberID: 0x3e}

const path = "KEYRING"

func newKeyring(t testing.TB, keks ...*kms.KEK) (*Keyring, *vfs.MemFS) {
	t.Helper()
	fs := vfs.NewCrashableMem()
	kr, err := Create(fs, path, member, keks...)
	must(t, err)
	t.Cleanup(kr.Close)
	return kr, fs
}

func reopen(t testing.TB, fs vfs.FS, keks ...*kms.KEK) *Keyring {
	t.Helper()
	kr, err := Open(fs, path, keks...)
	must(t, err)
	t.Cleanup(kr.Close)
	return kr
}

// sealed seals a message under a file key of the data key id.
func sealed(t testing.TB, kr *Keyring, id ID) []byte {
	t.Helper()
	aead, _, err := kr.FileKey(id, make([]byte, 32), []byte("info"))
	must(t, err)
	return aead.Seal(nil, nil, []byte("message"), nil)
}

func opens(kr *Keyring, id ID, b []byte) error {
	aead, _, err := kr.FileKey(id, make([]byte, 32), []byte("info"))
	if err != nil {
		return err
	}
	_, err = aead.Open(nil, nil, b, nil)
	return err
}

func TestKeysGoFromActiveToDecryptOnlyToRemoved(t *testing.T) {
	kek := newKEK(t)
	kr, fs := newKeyring(t, kek)
	first := kr.Active()
	if kr.Generation() != 1 || kr.Member() != member {
		t.Fatalf("generation %d of member %v", kr.Generation(), kr.Member())
	}
	under := sealed(t, kr, first)
	if err := kr.Remove(first); err == nil {
		t.Fatal("removed the active key")
	}
	second, err := kr.Rotate()
	must(t, err)
	for _, kr := range []*Keyring{kr, reopen(t, fs, kek)} {
		if kr.Active() != second || kr.Generation() != 2 {
			t.Fatalf("active %v, generation %d", kr.Active(), kr.Generation())
		}
		must(t, opens(kr, first, under))
		keys := kr.Keys()
		if len(keys) != 2 || keys[0].State != DecryptOnly || keys[1].State != Active || keys[0].Deactivated.IsZero() ||
			!keys[1].Deactivated.IsZero() || time.Since(keys[0].Created) > time.Minute {
			t.Fatalf("keys: %+v", keys)
		}
	}
	must(t, kr.Remove(first))
	for _, kr := range []*Keyring{kr, reopen(t, fs, kek)} {
		if err := opens(kr, first, under); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("a removed key: %v", err)
		}
		k := kr.Keys()[0]
		if k.State != Removed || k.Removed.IsZero() || k.Since != 1 || k.Until != 3 || len(k.KEKs) != 1 || k.KEKs[0] != kek.ID() {
			t.Fatalf("the removed key is remembered as %+v", k)
		}
		if err := kr.Remove(first); !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("removed twice: %v", err)
		}
	}
}

func TestFileKeysDependOnKeySaltAndInfo(t *testing.T) {
	kr, _ := newKeyring(t, newKEK(t))
	first := kr.Active()
	second, err := kr.Rotate()
	must(t, err)
	seen := make(map[[32]byte]bool)
	for _, id := range []ID{first, second} {
		for _, salt := range []string{"a", "b"} {
			for _, info := range []string{"a", "b"} {
				_, tag, err := kr.FileKey(id, []byte(salt), []byte(info))
				must(t, err)
				_, again, _ := kr.FileKey(id, []byte(salt), []byte(info))
				if seen[tag] || tag != again {
					t.Fatal("two file keys are the same, or one is two")
				}
				seen[tag] = true
			}
		}
	}
	if _, _, err := kr.FileKey(ID{}, nil, nil); !errors.Is(err, ErrUnknownKey) {
		t.Fatal(err)
	}
}

func TestAKeyringIsNeverReplacedByANewOne(t *testing.T) {
	kek := newKEK(t)
	_, fs := newKeyring(t, kek)
	if _, err := Create(fs, path, member, kek); err == nil || !strings.Contains(err.Error(), "there is one already") {
		t.Fatal(err)
	}
	if _, err := Create(vfs.NewMem(), path, member); err == nil {
		t.Fatal("made a keyring without a KEK")
	}
	if _, err := Create(vfs.NewMem(), path, member, kek, kek); err == nil {
		t.Fatal("wrapped twice by the same KEK")
	}
	if _, err := Open(vfs.NewMem(), path, kek); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Fatal(err)
	}
}

func TestTheWrongKEKIsNamedAndTheRightOneToo(t *testing.T) {
	right, wrong := newKEK(t), newKEK(t)
	_, fs := newKeyring(t, right)
	_, err := Open(fs, path, wrong)
	if err == nil || !strings.Contains(err.Error(), right.URI()) || !strings.Contains(err.Error(), right.ID()) ||
		!strings.Contains(err.Error(), wrong.URI()) {
		t.Fatal(err)
	}
}

func content(t testing.TB, fs vfs.FS) []byte {
	t.Helper()
	f, err := fs.Open(path)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

func fileOf(t testing.TB, b []byte) vfs.FS {
	t.Helper()
	fs := vfs.NewMem()
	must(t, writeFile(fs, path, bytes.Clone(b)))
	return fs
}

func TestEveryAlteredByteIsRefused(t *testing.T) {
	kek, other := newKEK(t), newKEK(t)
	kr, fs := newKeyring(t, kek, other)
	first := kr.Active()
	_, err := kr.Rotate()
	must(t, err)
	must(t, kr.Remove(first))
	good := content(t, fs)
	reopen(t, fileOf(t, good), kek)
	for i := range good {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= bit
			if kr, err := Open(fileOf(t, b), path, kek); err == nil {
				kr.Close()
				t.Fatalf("opened with byte %d altered", i)
			}
		}
	}
	for n := range good {
		if _, err := Open(fileOf(t, good[:n]), path, kek); err == nil {
			t.Fatalf("opened with %d of %d bytes", n, len(good))
		}
	}
	if _, err := Open(fileOf(t, append(good, 0)), path, kek); !errors.Is(err, ErrAltered) {
		t.Fatal("opened with a byte too many", err)
	}
	good[8]++
	if _, err := Open(fileOf(t, good), path, kek); err == nil || !strings.Contains(err.Error(), "newer program") || errors.Is(err, ErrAltered) {
		t.Fatal("a newer version", err)
	}
}

// Whoever can write to the disk, and knows everything but the keyring key, adds
// an active key of his own, in all ways open to him.
func TestAKeyAddedByWhoeverLacksTheKeyringKeyIsRefused(t *testing.T) {
	kek := newKEK(t)
	kr, fs := newKeyring(t, kek)
	for _, c := range []struct {
		name  string
		forge func(s, mine *state)
	}{
		{"an entry of his own", func(s, mine *state) { s.keys = append(s.keys, mine.keys[0]) }},
		{"his entry instead", func(s, mine *state) { s.keys = mine.keys }},
		{"his wrap too", func(s, mine *state) { s.keys, s.wraps = mine.keys, mine.wraps }},
		{"only a higher generation", func(s, mine *state) { s.generation += 10 }},
		{"the active key made removable", func(s, mine *state) { s.keys[0].state = DecryptOnly }},
	} {
		// His keyring key is one of his own, known to him.
		mine, _ := newKeyring(t, newKEK(t))
		s := kr.cur.clone()
		c.forge(s, mine.cur)
		s.root = mine.cur.root
		b, err := s.encode()
		must(t, err)
		if forged, err := Open(fileOf(t, b), path, kek); err == nil {
			forged.Close()
			t.Errorf("%s: opened", c.name)
		}
	}
	_ = fs
}

func TestAnOldKeyringIsRefusedWhereItsGenerationIsRemembered(t *testing.T) {
	kek := newKEK(t)
	kr, fs := newKeyring(t, kek)
	old := content(t, fs)
	_, err := kr.Rotate()
	must(t, err)
	must(t, kr.CheckGeneration(2))
	must(t, kr.CheckGeneration(1))
	rolledBack := reopen(t, fileOf(t, old), kek)
	if err := rolledBack.CheckGeneration(2); err == nil || !strings.Contains(err.Error(), "old copy") {
		t.Fatal(err)
	}
}

// A wrap or entry that opens, but holds another key than it commits to.
func TestCommitmentsAreChecked(t *testing.T) {
	kek := newKEK(t)
	kr, fs := newKeyring(t, kek)
	good := content(t, fs)
	f, err := parse(good)
	must(t, err)
	for _, commitment := range [][]byte{f.commitments[0], f.entries[0].commitment} {
		at := bytes.Index(good, commitment)
		b := bytes.Clone(good)
		b[at] ^= 1
		// With a right MAC, as if the MAC were broken.
		mac, err := kr.cur.mac(b[:len(b)-macSize])
		must(t, err)
		copy(b[len(b)-macSize:], mac)
		if _, err := Open(fileOf(t, b), path, kek); err == nil || !strings.Contains(err.Error(), "holds another key") {
			t.Fatal(err)
		}
	}
}

func TestSetKEKsMovesFromOneKEKToAnother(t *testing.T) {
	a, b := newKEK(t), newKEK(t)
	kr, fs := newKeyring(t, a)
	first := kr.Active()
	under := sealed(t, kr, first)
	root := kr.cur.root
	must(t, kr.SetKEKs(a, b))
	if kr.cur.root != root {
		t.Fatal("the keyring key was replaced although no KEK was retired")
	}
	must(t, opens(reopen(t, fs, a), first, under))
	must(t, opens(reopen(t, fs, b), first, under))
	both := content(t, fs)

	must(t, kr.SetKEKs(b))
	if kr.cur.root == root || root.Bytes() != nil {
		t.Fatal("the keyring key that a retired KEK wrapped is still there")
	}
	if _, err := Open(fs, path, a); err == nil {
		t.Fatal("the retired KEK still opens the keyring")
	}
	must(t, opens(reopen(t, fs, b), first, under))
	wraps := kr.Wraps()
	if len(wraps) != 2 || wraps[0].KEK != a.ID() || wraps[0].Since != 1 || wraps[0].Until != 3 || wraps[1].Since != 2 || wraps[1].Until != 0 {
		t.Fatalf("wraps: %+v", wraps)
	}
	second, err := kr.Rotate()
	must(t, err)
	must(t, kr.SetKEKs(a, b)) // back again: a second wrap by a
	keys := kr.Keys()
	if fmt.Sprint(keys[0].KEKs) != fmt.Sprint([]string{a.ID(), b.ID()}) || keys[1].ID != second || len(keys[1].KEKs) != 2 {
		t.Fatalf("KEKs that wrapped the keys: %+v", keys)
	}
	must(t, opens(reopen(t, fs, a), first, under))

	// The old file still opens with the retired KEK, which is why it is named.
	must(t, opens(reopen(t, fileOf(t, both), a), first, under))
	if err := kr.SetKEKs(); err == nil {
		t.Fatal("left without a KEK")
	}
}

func TestKeysForSnapshotsAreWrappedUnderEveryKEKInForce(t *testing.T) {
	a, b := newKEK(t), newKEK(t)
	kr, fs := newKeyring(t, a, b)
	key := []byte("some key")
	wraps, err := kr.WrapKey(key, []byte("context"))
	must(t, err)
	for _, kek := range []*kms.KEK{a, b} {
		got := make([]byte, len(key))
		must(t, UnwrapKey(got, wraps, []byte("context"), kek))
		if !bytes.Equal(got, key) {
			t.Fatal("another key came out")
		}
	}
	if err := UnwrapKey(nil, wraps, nil, newKEK(t)); err == nil || !strings.Contains(err.Error(), a.ID()) {
		t.Fatal(err)
	}
	if _, err := reopen(t, fs, b).WrapKey(key, nil); err == nil || !strings.Contains(err.Error(), a.ID()) {
		t.Fatal("a KEK in force was left out", err)
	}
}

// A change is on the disk before it takes effect: whatever fails, and wherever
// the machine stops, the file on the disk holds the key that is active.
func TestChangesSurviveAFailureAndACrashAtEveryPoint(t *testing.T) {
	kek, other := newKEK(t), newKEK(t)
	changes := map[string]func(*Keyring) error{
		"rotate":   func(kr *Keyring) error { _, err := kr.Rotate(); return err },
		"remove":   func(kr *Keyring) error { return kr.Remove(kr.Keys()[0].ID) },
		"set KEKs": func(kr *Keyring) error { return kr.SetKEKs(kek, other) },
	}
	for name, change := range changes {
		for at := int32(0); ; at++ {
			base := vfs.NewCrashableMem()
			inj := errorfs.OnIndex(-1)
			kr, err := Create(errorfs.Wrap(base, inj), path, member, kek)
			must(t, err)
			_, err = kr.Rotate()
			must(t, err)
			active, generation := kr.Active(), kr.Generation()
			inj.Store(at)
			err = change(kr)
			inj.Store(-1)
			if err != nil && (kr.Active() != active || kr.Generation() != generation || len(kr.Wraps()) != 1) {
				t.Fatalf("%s, failure %d: it failed, but took effect", name, at)
			}
			for _, percent := range []int{0, 100} {
				crashed := base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: newRand()})
				after := reopen(t, crashed, kek)
				must(t, after.CheckGeneration(kr.Generation()))
				must(t, opens(after, kr.Active(), sealed(t, kr, kr.Active())))
				after.Close()
			}
			if err == nil {
				kr.Close()
				break
			}
			// Either nothing happened and the next change works, or nobody knows and
			// there is none.
			if again := change(kr); again != nil && !strings.Contains(again.Error(), "restart") {
				t.Fatalf("%s, failure %d: then %v", name, at, again)
			} else if again == nil {
				reopen(t, base, kek)
			}
			kr.Close()
		}
	}
}

func TestKeysAreHandedOutWhileTheyChange(t *testing.T) {
	kek := newKEK(t)
	kr, _ := newKeyring(t, kek)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				id := kr.Active()
				if _, _, err := kr.FileKey(id, nil, nil); err != nil && !errors.Is(err, ErrUnknownKey) {
					t.Error(err)
					return
				}
				kr.Keys()
			}
		})
	}
	for range 20 {
		old := kr.Active()
		_, err := kr.Rotate()
		must(t, err)
		must(t, kr.Remove(old))
	}
	close(done)
	wg.Wait()
}

func TestAClosedKeyringHasNoKeys(t *testing.T) {
	kr, _ := newKeyring(t, newKEK(t))
	id := kr.Active()
	aead, _, err := kr.FileKey(id, nil, nil)
	must(t, err)
	kr.Close()
	kr.Close()
	if _, _, err := kr.FileKey(id, nil, nil); !errors.Is(err, ErrUnknownKey) {
		t.Fatal(err)
	}
	if _, err := kr.Rotate(); err == nil {
		t.Fatal("rotated a closed keyring")
	}
	if _, err := aead.Open(nil, nil, aead.Seal(nil, nil, []byte("x"), nil), nil); err != nil {
		t.Fatal("an open file cannot be read any more", err)
	}
}

func TestMetricsShowTheAgeOfEachKeyHeld(t *testing.T) {
	kr, _ := newKeyring(t, newKEK(t))
	id := kr.Active()
	gathered := func() string {
		families, err := prometheus.DefaultGatherer.Gather()
		must(t, err)
		var b strings.Builder
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "coffer_keyring") {
				fmt.Fprintln(&b, f)
			}
		}
		return b.String()
	}
	for _, want := range []string{"coffer_keyring_key_age_seconds", id.String(), "active", "coffer_keyring_generation"} {
		if got := gathered(); !strings.Contains(got, want) {
			t.Fatalf("no %s in %s", want, got)
		}
	}
	kr.Close()
	if strings.Contains(gathered(), id.String()) {
		t.Fatal("the key of a closed keyring is still shown")
	}
}

func FuzzParse(f *testing.F) {
	kek, err := kms.Create("file:" + f.TempDir() + "/kek")
	must(f, err)
	defer kek.Close()
	kr, fs := newKeyring(f, kek)
	f.Add(content(f, fs))
	_, err = kr.Rotate()
	must(f, err)
	f.Add(content(f, fs))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Nothing but what a keyring wrote opens, and nothing panics.
		s, err := decode(b, []*kms.KEK{kek})
		if err != nil {
			return
		}
		defer s.wipe()
		if mac, err := s.mac(b[:len(b)-macSize]); err != nil || !bytes.Equal(mac, b[len(b)-macSize:]) {
			t.Fatal("opened although its MAC is wrong")
		}
	})
}

func TestBegunLeavesTheFirstGenerationOnce(t *testing.T) {
	kek := newKEK(t)
	kr, fs := newKeyring(t, kek)
	active := kr.Active()
	must(t, kr.Begun())
	must(t, kr.Begun())
	if again := reopen(t, fs, kek); again.Generation() != 2 || kr.Generation() != 2 || again.Active() != active {
		t.Fatalf("generation %d, and %d on the disk", kr.Generation(), again.Generation())
	}
}
