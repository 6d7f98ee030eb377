package process

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// prefixes are where Kubernetes and OpenShift keep what must not be read.
var prefixes = []string{
	"/registry/secrets/", "/registry/configmaps/",
	"/kubernetes.io/secrets/", "/kubernetes.io/configmaps/",
	"/openshift.io/routes/", "/openshift.io/oauth/accesstokens/", "/openshift.io/oauth/authorizetokens/",
	"/marks/",
}

func TestNothingThatWasStoredCanBeReadOnTheDisk(t *testing.T) {
	marks := newMarks()
	m := newCoffer(t, "--snapshot-count=50")
	m.name = marks.name
	states := fill(t, m, marks)
	for _, s := range states {
		if found := marks.find(t, s.folder); len(found) > 0 {
			t.Errorf("%s: readable: %s", s.name, strings.Join(found, ", "))
		}
		checkIncompressible(t, s)
	}
}

// The same search finds the marks that etcd leaves: it can fail.
func TestTheSearchFindsWhatEtcdLeavesReadable(t *testing.T) {
	marks := newMarks()
	m := newEtcd(t, "--snapshot-count=50")
	m.name = marks.name
	for _, s := range fill(t, m, marks) {
		if found := marks.find(t, s.folder); len(found) < len(marks.plain) {
			t.Errorf("%s: only %d of %d marks were found in etcd's files: %s", s.name, len(found), len(marks.plain), strings.Join(found, ", "))
		}
	}
}

// marks are what a test writes and then looks for.
type marks struct {
	name  string            // of the member
	user  string            // the name of a user, and of a role
	text  string            // in keys and values
	lease int64             // a lease's id
	plain map[string][]byte // what must not be found, by what it is
	never map[string][]byte // what not even etcd writes
}

func newMarks() marks {
	raw := make([]byte, 40)
	rand.Read(raw)
	m := marks{text: "mark-" + hex.EncodeToString(raw[:12]), name: "member-" + hex.EncodeToString(raw[12:20])}
	m.lease = int64(binary.BigEndian.Uint64(raw[16:]) >> 1)
	m.user = "user-" + hex.EncodeToString(raw[24:32])
	m.never = map[string][]byte{"the user's password": []byte("password-" + hex.EncodeToString(raw[32:]))}
	m.plain = map[string][]byte{
		"the user's name":    []byte(m.user),
		"the member's name":  []byte(m.name),
		"key or value text":  []byte(m.text),
		"the lease's number": binary.BigEndian.AppendUint64(nil, uint64(m.lease)),
	}
	for _, p := range prefixes {
		m.plain["the prefix "+p] = []byte(p)
	}
	return m
}

// spellings returns b as it may stand in a file: raw, hexadecimal, or base64
// at any of three alignments (without the characters that depend on neighbours).
func spellings(b []byte) map[string][]byte {
	s := map[string][]byte{
		"raw":         b,
		"hexadecimal": []byte(hex.EncodeToString(b)),
		"HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString(b))),
	}
	for shift := range 3 {
		padded := append(make([]byte, shift), b...)
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			e := enc.EncodeToString(padded)
			first := (shift*8 + 5) / 6
			last := len(padded) * 8 / 6
			s[fmt.Sprintf("%s at %d", name, shift)] = []byte(e[first:last])
		}
	}
	return s
}

func (m marks) all() map[string][]byte {
	all := maps.Clone(m.plain)
	maps.Copy(all, m.never)
	return all
}

// find reads every file below folder and names each mark found and where.
func (m marks) find(t *testing.T, folder string) []string {
	t.Helper()
	var found []string
	seen := map[string]bool{}
	walk(t, folder, func(path string, content []byte) {
		for what, b := range m.all() {
			for spelling, s := range spellings(b) {
				if bytes.Contains(content, s) && !seen[what] {
					seen[what] = true
					found = append(found, fmt.Sprintf("%s (%s) in %s", what, spelling, filepath.Base(path)))
				}
			}
		}
		if base := filepath.Base(path); strings.Contains(base, m.text) || strings.Contains(base, m.name) {
			found = append(found, "the name of "+path)
		}
	})
	return found
}

func walk(t *testing.T, folder string, visit func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // a running member removes files
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			visit(path, content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// state is a copy of all that a member had written at some moment.
type state struct{ name, folder string }

// fill writes the marks in every way there is, and returns copies of the
// data directory, the log and the temporary files in every state: running,
// killed, restarted, compacted, stopped; and a snapshot.
func fill(t *testing.T, m *member, marks marks) []state {
	t.Helper()
	ctx := t.Context()
	coffer := m.args[len(m.args)-1] == "serve"
	var states []state
	keep := func(name string) {
		folder := filepath.Join(t.TempDir(), "copy")
		for _, part := range []string{"data", "tmp"} {
			copyTree(t, filepath.Join(m.dir, part), filepath.Join(folder, part))
		}
		if coffer {
			// A log may name its member, its lease and its users; it may not hold a key, a value or a password.
			log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			log = bytes.ReplaceAll(log, []byte(marks.name), nil)
			log = bytes.ReplaceAll(log, []byte(marks.user), nil)
			if err := os.WriteFile(filepath.Join(folder, "log"), log, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		states = append(states, state{name, folder})
	}

	m.start(t)
	c := m.client(t)
	write(ctx, t, c, marks, 0)
	addUser(ctx, t, c, marks)
	keep("running")
	m.kill()
	keep("killed")
	m.start(t)
	keep("restarted")
	write(ctx, t, c, marks, 100)
	resp, err := c.Get(ctx, "/marks/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(ctx, resp.Header.Revision-20, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Defragment(ctx, m.endpoint); err != nil {
		t.Fatal(err)
	}
	keep("compacted")
	if coffer {
		rotate := exec.CommandContext(ctx, m.args[0], "keys", "rotate", "--endpoints="+m.endpoint)
		if out, err := rotate.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", rotate, err, out)
		}
		keep("rotated")
	}
	m.stop(t)
	keep("stopped")
	m.start(t)

	folder := t.TempDir()
	snap, err := c.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(snap)
	snap.Close()
	if err != nil {
		t.Fatal(err)
	}
	if len(b)%512 != 32 {
		t.Errorf("the snapshot has %d bytes, %d more than a multiple of 512; etcdctl wants 32 more", len(b), len(b)%512)
	}
	if err := os.WriteFile(filepath.Join(folder, "snapshot"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return append(states, state{"snapshot", folder})
}

// addUser adds a user who may read the marks, and lets it try to log in, which nobody can before authentication is enabled.
func addUser(ctx context.Context, t *testing.T, c *clientv3.Client, m marks) {
	t.Helper()
	password := string(m.never["the user's password"])
	_, err := c.UserAdd(ctx, m.user, password)
	if err == nil {
		_, err = c.RoleAdd(ctx, m.user)
	}
	if err == nil {
		_, err = c.RoleGrantPermission(ctx, m.user, "/marks/"+m.text, "", clientv3.PermissionType(clientv3.PermReadWrite))
	}
	if err == nil {
		_, err = c.UserGrantRole(ctx, m.user, m.user)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Authenticate(ctx, m.user, password); err == nil {
		t.Fatal("a user has logged in although authentication is off")
	}
}

// write stores the marks in keys and values under every prefix, also as
// base64 and hexadecimal, with a lease, in transactions and in deleted keys.
func write(ctx context.Context, t *testing.T, c *clientv3.Client, m marks, from int) {
	t.Helper()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if from == 0 {
		check(pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: m.lease, TTL: 3600}))
	}
	for i := from; i < from+30; i++ {
		for _, p := range prefixes {
			key := fmt.Sprintf("%s%s/%d", p, m.text, i)
			check(c.Put(ctx, key, strings.Repeat(m.text+" ", 1+i%7)))
			if i%3 == 0 {
				check(c.Put(ctx, key+"/leased", m.text, clientv3.WithLease(clientv3.LeaseID(m.lease))))
				check(c.Delete(ctx, key))
			}
			check(c.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "!=", m.text+"x")).Then(
				clientv3.OpPut(key+"/hex", hex.EncodeToString([]byte(m.text))),
				clientv3.OpPut(key+"/base64", base64.StdEncoding.EncodeToString([]byte(m.text)))).Commit())
		}
	}
}

// checkIncompressible demands that no file gives anything away by its form:
// what is sealed looks random. Files may end in zeros: space set aside.
func checkIncompressible(t *testing.T, s state) {
	t.Helper()
	walk(t, s.folder, func(path string, content []byte) {
		if filepath.Base(path) == "log" {
			return
		}
		body := content
		if len(body) > 512 {
			body = body[512:] // the header is public: it says what the file is
		}
		body = withoutZeroSectors(body)
		if len(body) < 4096 {
			return
		}
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, flate.BestCompression)
		w.Write(body)
		w.Close()
		if packed.Len() < len(body)*99/100 {
			t.Errorf("%s: %s: %d bytes pack into %d", s.name, path, len(body), packed.Len())
		}
	})
}

// withoutZeroSectors drops the sectors of 512 bytes that hold only zeros:
// journal segments and the disk reserve are made of them until they are used.
func withoutZeroSectors(b []byte) []byte {
	var kept []byte
	for len(b) > 0 {
		n := min(512, len(b))
		if bytes.ContainsFunc(b[:n], func(r rune) bool { return r != 0 }) {
			kept = append(kept, b[:n]...)
		}
		b = b[n:]
	}
	return kept
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	walk(t, from, func(path string, content []byte) {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst, content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
}
