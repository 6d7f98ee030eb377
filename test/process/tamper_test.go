package process

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestADamagedFileIsRefusedByNameAndNothingIsDeleted flips bytes in every
// file of a stopped member's directory, one at a time. The member must either
// refuse to start and name the file, or, where it only meets the damage
// later, answer an error; it may never answer with other data, and it may
// never delete or change a file because of it.
func TestADamagedFileIsRefusedByNameAndNothingIsDeleted(t *testing.T) {
	m := newCoffer(t, "--snapshot-count=50", "--snapshot-catchup-entries=10")
	m.start(t)
	c := m.client(t)
	want := map[string]string{}
	for i := range 300 {
		key, value := fmt.Sprintf("key-%03d", i), strings.Repeat(fmt.Sprint(i), 200)
		if _, err := c.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		want[key] = value
		if i == 100 || i == 200 { // several tables, and a log behind them
			if _, err := c.Defragment(t.Context(), m.endpoint); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.stop(t)
	c.Close()

	original := filepath.Join(t.TempDir(), "original")
	copyTree(t, m.data, original)
	var files []string
	walk(t, original, func(path string, content []byte) {
		rel, _ := filepath.Rel(original, path)
		// The disk reserve holds nothing: it is never read, and written anew when it is not as it should be.
		if rel != "ballast" && len(withoutZeroSectors(content)) > 0 {
			files = append(files, rel)
		}
	})
	if len(files) < 6 {
		t.Fatalf("a member's directory holds only %v", files)
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(original, file))
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(content, "\x00"))
		for _, at := range places(used) {
			t.Run(fmt.Sprintf("%s at %d of %d", file, at, used), func(t *testing.T) {
				restore(t, original, m.data)
				damaged := slices.Clone(content)
				damaged[at] ^= 0x40
				if err := os.WriteFile(filepath.Join(m.data, file), damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				checkRefused(t, m, file, want)
			})
		}
	}
}

// places are the offsets to damage in a file of n bytes: header, first frame,
// middle and last tag; in the long form many more. (Package seal's tests take
// every byte of every kind of file, without a process around it.)
func places(n int) []int {
	all := []int{9, 140, n / 2, n - 1}
	if long {
		all = append(all, 0, 100, 300)
		for i := 0; i < n; i += max(n/40, 1) {
			all = append(all, i)
		}
	}
	all = slices.DeleteFunc(all, func(at int) bool { return at < 0 || at >= n })
	slices.Sort(all)
	return slices.Compact(all)
}

func checkRefused(t *testing.T, m *member, file string, want map[string]string) {
	t.Helper()
	before := fingerprints(t, m.data)
	// Damage that is met at the start ends the process; the rest is met by reading all there is.
	m.launch(t)
	defer m.kill()
	if err := m.ready(t.Context()); err == nil {
		c := m.client(t)
		defer c.Close()
		r, err := c.Get(t.Context(), "", clientv3.WithPrefix())
		if err == nil {
			_, err = c.HashKV(t.Context(), m.endpoint, 0)
		}
		switch {
		case err != nil: // refused later, when the place was read
		case len(r.Kvs) != len(want):
			t.Errorf("%d keys are answered, %d were written", len(r.Kvs), len(want))
		default:
			for _, kv := range r.Kvs {
				if want[string(kv.Key)] != string(kv.Value) {
					t.Errorf("%s has another value", kv.Key)
				}
			}
			t.Errorf("the damage in %s went unnoticed", file)
		}
		return
	}
	if code := m.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, not 1:\n%s", code, m.tail())
	}
	if log := m.tail(); !strings.Contains(log, filepath.Base(file)) {
		t.Errorf("the refusal does not name %s:\n%s", filepath.Base(file), log)
	}
	after := fingerprints(t, m.data)
	for path, sum := range before {
		// Damage within a table is met when the database is open: Pebble has begun a new MANIFEST by then, which lists
		// the same tables, with its OPTIONS and markers.
		if filepath.Ext(file) == ".sst" && filepath.Ext(path) != ".sst" && filepath.Base(filepath.Dir(path)) == "db" {
			continue
		}
		if after[path] != sum {
			t.Errorf("%s was changed or deleted by a start that was refused", path)
		}
	}
}

func fingerprints(t *testing.T, folder string) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	walk(t, folder, func(path string, content []byte) { sums[path] = sha256.Sum256(content) })
	return sums
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	copyTree(t, from, to)
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestFilesPutInEachOthersPlaceAreRefused swaps, renames and rolls back.
func TestFilesPutInEachOthersPlaceAreRefused(t *testing.T) {
	m := newCoffer(t, "--snapshot-count=50", "--snapshot-catchup-entries=10")
	other := newCoffer(t)
	other.start(t)
	other.stop(t)
	m.start(t)
	c := m.client(t)
	fillKeys := func(n int) {
		for i := range n {
			if _, err := c.Put(t.Context(), fmt.Sprintf("key-%03d", i), strings.Repeat("v", 500)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fillKeys(100)
	early := filepath.Join(t.TempDir(), "early")
	m.stop(t)
	copyTree(t, m.data, early)
	for range 3 { // a stop writes what is in memory as a table of its own
		m.start(t)
		fillKeys(100)
		m.stop(t)
	}
	original := filepath.Join(t.TempDir(), "original")
	copyTree(t, m.data, original)

	in := func(folder, pattern string) []string {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		return found
	}
	move := func(t *testing.T, from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name string
		do   func(t *testing.T) (named string)
	}{
		{"two journal segments swapped", func(t *testing.T) string {
			was, now := in(original, "journal/*"), in(m.data, "journal/*")
			if len(now) < 2 {
				t.Fatalf("only %d segments", len(now))
			}
			move(t, was[0], now[1])
			move(t, was[1], now[0])
			return filepath.Base(now[0])
		}},
		{"a table in the place of another file", func(t *testing.T) string {
			options := in(m.data, "db/OPTIONS-*")[0]
			move(t, in(original, "db/*.sst")[0], options)
			return filepath.Base(options)
		}},
		{"a table missing", func(t *testing.T) string {
			table := in(m.data, "db/*.sst")[0]
			os.Remove(table)
			return strings.TrimSuffix(filepath.Base(table), ".sst")
		}},
		{"the keyring of another member", func(t *testing.T) string {
			move(t, filepath.Join(other.data, "KEYRING"), filepath.Join(m.data, "KEYRING"))
			return "KEYRING"
		}},
		{"no keyring", func(t *testing.T) string {
			os.Remove(filepath.Join(m.data, "KEYRING"))
			return "KEYRING"
		}},
		{"the database as it was before", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "db"))
			copyTree(t, filepath.Join(early, "db"), filepath.Join(m.data, "db"))
			return ""
		}},
		{"the journal as it was before", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "journal"))
			copyTree(t, filepath.Join(early, "journal"), filepath.Join(m.data, "journal"))
			return ""
		}},
		{"no journal", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "journal"))
			return "journal"
		}},
		{"no journal, and a file in its place", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "journal"))
			if err := os.Mkdir(filepath.Join(m.data, "journal"), 0o700); err != nil {
				t.Fatal(err)
			}
			move(t, filepath.Join(original, "LOCK"), filepath.Join(m.data, "journal", "note"))
			return "journal"
		}},
		{"nothing but the keyring", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "journal"))
			os.RemoveAll(filepath.Join(m.data, "db"))
			return "keyring"
		}},
		{"no database", func(t *testing.T) string {
			os.RemoveAll(filepath.Join(m.data, "db"))
			return "db"
		}},
		{"a journal segment of another member", func(t *testing.T) string {
			segments := in(m.data, "journal/*")
			move(t, in(other.data, "journal/*")[0], segments[0])
			return filepath.Base(segments[0])
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			restore(t, original, m.data)
			named := tc.do(t)
			before := fingerprints(t, m.data)
			code, output := m.startAndFail(t)
			if code != 1 || named != "" && !strings.Contains(output, named) {
				t.Errorf("exit code %d; %q should be named:\n%s", code, named, output)
			}
			after := fingerprints(t, m.data)
			for path, sum := range before {
				if after[path] != sum {
					t.Errorf("%s was changed or deleted by a start that was refused", path)
				}
			}
		})
	}
}
