// Package conformance runs etcd's own tests against coffer.
//
// The suites go.etcd.io/etcd/tests/v3/common and e2e start their members as
// processes named bin/etcd. Here that name, and bin/etcdutl, are given to
// coffer, etcdctl is built from its module, and the outcome of every test is
// compared with a list: a test that fails without standing there breaks the
// build, and so does one that stands there and passes.
package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const suites = "go.etcd.io/etcd/tests/v3/"

// short are the tests of e2e that -short runs, one of each kind: the whole of
// it takes many minutes, and most of what it tests is tested by common, too.
const short = "^(TestCtlV3Snapshot|TestCtlV3SnapshotCorrupt|TestCtlV3DefragOffline|TestCtlV3Lock|TestCtlV3Elect|TestCtlV3Watch|TestCtlV3GetRevokedCRL|" +
	"TestCurlV3KVBasicOperation|TestCurlV3CampaignNoTLS|TestCurlV3LockOperations|TestCurlV3CipherSuitesValid|TestConnectionMultiplexing|" +
	"TestEtcdTLSVersion|TestEtcdDeprecatedFlags|TestHTTPLivezReadyzHandler|TestServerJsonLogging|TestV2DeprecationNotYet)$"

func TestCommonSuiteFailsExactlyWhereListed(t *testing.T) {
	failsExactlyWhereListed(t, "common", "")
}

func TestE2ESuiteFailsExactlyWhereListed(t *testing.T) {
	pattern := ""
	if testing.Short() {
		pattern = short
	}
	failsExactlyWhereListed(t, "e2e", pattern)
}

// failsExactlyWhereListed runs the tests of a suite whose names match pattern,
// or all of them for "".
//
// COFFER_CONFORMANCE_PEER=etcd puts a real etcd in coffer's place, to tell a
// fault of the harness or the machine from one of coffer; nothing may fail
// then. COFFER_CONFORMANCE_RUN is another pattern, in the form of go test -run.
// When not all tests are run, the list is only checked one way.
func failsExactlyWhereListed(t *testing.T, suite, pattern string) {
	file := suite + ".txt"
	listed := readList(t, file)
	if os.Getenv("COFFER_CONFORMANCE_PEER") == "etcd" {
		listed = map[string]string{}
	}
	if run := os.Getenv("COFFER_CONFORMANCE_RUN"); run != "" {
		pattern = run
	}
	dir := layOut(t, suite)
	failed, passed := runSuite(t, dir, pattern, listed)
	t.Logf("%d leaf tests passed, %d failed, %d listed", len(passed), len(failed), len(listed))

	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s fails and is not in %s; its output:\n%s", name, file, failed[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if _, fails := failed[name]; fails {
			continue
		}
		if strings.HasPrefix(listed[name], "sometimes: ") {
			continue
		}
		if passed[name] {
			t.Errorf("%s passes: take it off %s", name, file)
		} else if pattern == "" {
			t.Errorf("%s is in %s, and no test of that name was run", name, file)
		}
	}
	if len(passed) == 0 && os.Getenv("COFFER_CONFORMANCE_RUN") == "" {
		t.Error("no test passed: the suite did not run")
	}
}

// layOut makes the folders that a suite expects around its working directory,
// tests/SUITE: bin with the three programs, tests/fixtures with its
// certificates, and the compiled suite. It returns tests/SUITE.
func layOut(t *testing.T, suite string) string {
	t.Helper()
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	dir := filepath.Join(root, "tests", suite)
	for _, d := range []string{bin, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("COFFER_CONFORMANCE_PEER") == "etcd" {
		run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcd"), "go.etcd.io/etcd/server/v3")
		run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcdutl"), "go.etcd.io/etcd/etcdutl/v3")
	} else {
		run(t, "../..", "go", "build", "-o", filepath.Join(bin, "etcd"), "./cmd/coffer")
		if err := os.Symlink("etcd", filepath.Join(bin, "etcdutl")); err != nil {
			t.Fatal(err)
		}
	}
	run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcdctl"), "go.etcd.io/etcd/etcdctl/v3")
	run(t, ".", "go", "test", "-c", "-tags", "e2e", "-o", filepath.Join(dir, "suite.test"), suites+suite)

	source := strings.TrimSpace(run(t, ".", "go", "list", "-f", "{{.Dir}}", "-tags", "e2e", suites+suite))
	if err := os.CopyFS(filepath.Join(root, "tests", "fixtures"), os.DirFS(filepath.Join(source, "..", "fixtures"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runSuite runs the compiled suite in dir and returns its leaf tests: the
// failed ones with their output, and the passed ones. Every top-level test has
// a process of its own, because the suite skips what follows a test that left
// a goroutine behind, as failed tests do.
func runSuite(t *testing.T, dir, pattern string, listed map[string]string) (failed map[string]string, passed map[string]bool) {
	t.Helper()
	if pattern == "" {
		pattern = "."
	}
	failed, passed = map[string]string{}, map[string]bool{}
	kek := kekURI(t)
	for _, name := range strings.Fields(run(t, dir, "./suite.test", "-test.list", pattern)) {
		timeout := "20m"
		if listed[name] != "" {
			timeout = "1m" // some of them would wait for ever for what does not come
		}
		cmd := exec.Command("go", "tool", "test2json", "-t", "./suite.test", "-test.v=test2json", "-test.timeout="+timeout, "-test.run=^"+name+"$")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(),
			"ETCD_KEK="+kek,
			// The suite's members without TLS listen on addresses of their own choice.
			"ETCD_ALLOW_PLAINTEXT=client,peer,metrics")
		cmd.Stderr = os.Stderr
		release := takeTurn(t)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		leaves(t, out, failed, passed)
		// The exit status says only that something failed, which the events tell better.
		_ = cmd.Wait()
		release()
	}
	return failed, passed
}

// takeTurn waits for the ports on which the suites' members listen, which are
// always the same: another run on this machine may be using them. A port of
// our own keeps runs of this test from each other.
func takeTurn(t *testing.T) (release func()) {
	t.Helper()
	var turn net.Listener
	for deadline := time.Now().Add(25 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if turn == nil {
			turn, err = net.Listen("tcp", "127.0.0.1:19999")
		}
		for _, addr := range []string{"localhost:20000", "localhost:20001"} {
			if err != nil {
				break
			}
			var probe net.Listener
			if probe, err = net.Listen("tcp", addr); err == nil {
				probe.Close()
			}
		}
		if err == nil {
			return func() { turn.Close() }
		}
		if time.Now().After(deadline) {
			t.Fatalf("the suites' ports are in use: %v", err)
		}
	}
}

// leaves reads the events of test2json and adds the tests without subtests to
// failed, with their output, and to passed.
func leaves(t *testing.T, events io.Reader, failed map[string]string, passed map[string]bool) {
	t.Helper()
	output := map[string]*strings.Builder{}
	parents := map[string]bool{}
	verdict := map[string]string{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		var e struct{ Action, Test, Output string }
		if len(bytes.TrimSpace(line)) > 0 && json.Unmarshal(line, &e) == nil && e.Test != "" {
			switch e.Action {
			case "run":
				output[e.Test] = &strings.Builder{}
				for i, c := range e.Test {
					if c == '/' {
						parents[e.Test[:i]] = true
					}
				}
			case "output":
				if b := output[e.Test]; b != nil && b.Len() < 16<<10 {
					b.WriteString(e.Output)
				}
			case "pass", "fail", "skip":
				verdict[e.Test] = e.Action
				t.Logf("%s %s", e.Action, e.Test)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range output {
		switch {
		case parents[name]:
		case verdict[name] == "pass":
			passed[name] = true
		case verdict[name] == "skip":
		default: // failed, or cut off by a panic or the timeout
			failed[name] = b.String()
		}
	}
}

// readList reads a list of tests that are known to fail: a name and its
// reason a line, separated by white space; # begins a comment line. A reason
// that begins with "sometimes: " is that of a test that may also pass.
func readList(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for n, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if reason = strings.TrimSpace(reason); reason == "" {
			t.Fatalf("%s:%d: %s has no reason", file, n+1, name)
		}
		if _, twice := list[name]; twice {
			t.Fatalf("%s:%d: %s stands twice", file, n+1, name)
		}
		list[name] = reason
	}
	return list
}

func kekURI(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)*7 + 1
	}
	if err := os.WriteFile(path, key, 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes()))
	}
	return string(out)
}
