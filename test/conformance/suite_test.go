// Package conformance runs etcd's own tests against coffer.
//
// The suite go.etcd.io/etcd/tests/v3/common starts its members as processes
// named bin/etcd. Here that name is given to coffer, etcdctl and etcdutl are
// built from their modules, and the outcome of every test is compared with
// common.txt: a test that fails without standing there breaks the build, and
// so does one that stands there and passes.
package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const commonPackage = "go.etcd.io/etcd/tests/v3/common"

// TestCommonSuiteFailsExactlyWhereListed runs the whole of tests/common.
//
// COFFER_CONFORMANCE_PEER=etcd puts a real etcd in coffer's place, to tell a
// fault of the harness or the machine from one of coffer; nothing may fail
// then. COFFER_CONFORMANCE_RUN narrows the tests run, as go test -run does;
// the list is then only checked one way.
func TestCommonSuiteFailsExactlyWhereListed(t *testing.T) {
	listed := readList(t, "common.txt")
	if os.Getenv("COFFER_CONFORMANCE_PEER") == "etcd" {
		listed = map[string]string{}
	}
	dir := layOut(t)
	failed, passed := runSuite(t, dir, os.Getenv("COFFER_CONFORMANCE_RUN"))
	t.Logf("%d leaf tests passed, %d failed, %d listed", len(passed), len(failed), len(listed))

	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s fails and is not in common.txt; its output:\n%s", name, failed[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if _, fails := failed[name]; fails {
			continue
		}
		if passed[name] {
			t.Errorf("%s passes: take it off common.txt", name)
		} else if os.Getenv("COFFER_CONFORMANCE_RUN") == "" {
			t.Errorf("%s is in common.txt, and no test of that name was run", name)
		}
	}
	if len(passed) == 0 {
		t.Error("no test passed: the suite did not run")
	}
}

// layOut makes the folders that the suite expects around its working
// directory, tests/common: bin with the three programs, tests/fixtures with
// its certificates, and the compiled suite. It returns tests/common.
func layOut(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	common := filepath.Join(root, "tests", "common")
	for _, d := range []string{bin, common} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	server := func() {
		run(t, "../..", "go", "build", "-o", filepath.Join(bin, "etcd"), "./cmd/coffer")
	}
	if os.Getenv("COFFER_CONFORMANCE_PEER") == "etcd" {
		server = func() { run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcd"), "go.etcd.io/etcd/server/v3") }
	}
	server()
	run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcdctl"), "go.etcd.io/etcd/etcdctl/v3")
	run(t, ".", "go", "build", "-o", filepath.Join(bin, "etcdutl"), "go.etcd.io/etcd/etcdutl/v3")
	run(t, ".", "go", "test", "-c", "-tags", "e2e", "-o", filepath.Join(common, "common.test"), commonPackage)

	source := strings.TrimSpace(run(t, ".", "go", "list", "-f", "{{.Dir}}", "-tags", "e2e", commonPackage))
	if err := os.CopyFS(filepath.Join(root, "tests", "fixtures"), os.DirFS(filepath.Join(source, "..", "fixtures"))); err != nil {
		t.Fatal(err)
	}
	return common
}

// runSuite runs the compiled suite in dir and returns its leaf tests: the
// failed ones with their output, and the passed ones. Every top-level test has
// a process of its own, because the suite skips what follows a test that left
// a goroutine behind, as failed tests do.
func runSuite(t *testing.T, dir, pattern string) (failed map[string]string, passed map[string]bool) {
	t.Helper()
	if pattern == "" {
		pattern = "."
	}
	failed, passed = map[string]string{}, map[string]bool{}
	kek := kekURI(t)
	for _, name := range strings.Fields(run(t, dir, "./common.test", "-test.list", pattern)) {
		cmd := exec.Command("go", "tool", "test2json", "-t", "./common.test", "-test.v=test2json", "-test.timeout=20m", "-test.run=^"+name+"$")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(),
			"ETCD_KEK="+kek,
			// The suite's members without TLS listen on addresses of their own choice.
			"ETCD_ALLOW_PLAINTEXT=client,peer,metrics")
		cmd.Stderr = os.Stderr
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
	}
	return failed, passed
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
// reason a line, separated by white space; # begins a comment line.
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
