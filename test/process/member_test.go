// Package process tests coffer as its operator meets it: a real process on a
// real file system, killed, tampered with, filled up and read from outside.
//
// COFFER_LONG=1 runs the long forms.
package process

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var long = os.Getenv("COFFER_LONG") == "1"

// built builds a server once for all tests.
func built(t *testing.T, dir, pkg string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path := builds.made[pkg]; path != "" {
		return path
	}
	path := filepath.Join(builds.dir, filepath.Base(filepath.Dir(pkg))+"-"+filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	builds.made[pkg] = path
	return path
}

var builds = struct {
	sync.Mutex
	dir  string
	made map[string]string
}{made: map[string]string{}}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "coffer-process-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builds.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func cofferBinary(t *testing.T) string { return built(t, "../..", "./cmd/coffer") }
func etcdBinary(t *testing.T) string   { return built(t, ".", "go.etcd.io/etcd/server/v3") }

// member is one server process with everything that belongs to it in a folder.
type member struct {
	dir      string   // holds kek, log, tmp and, unless data says otherwise, data
	data     string   // the data directory
	args     []string // program, lead arguments
	extra    []string // further flags
	endpoint string
	peer     string
	name     string
	cmd      *exec.Cmd
	gone     chan struct{}
}

// newCoffer describes a member on free loopback ports, not yet started.
func newCoffer(t *testing.T, extra ...string) *member {
	t.Helper()
	m := newMember(t, extra...)
	m.args = []string{cofferBinary(t), "serve"}
	return m
}

// newEtcd describes a real etcd of the same shape.
func newEtcd(t *testing.T, extra ...string) *member {
	t.Helper()
	m := newMember(t, extra...)
	m.args = []string{etcdBinary(t)}
	return m
}

func newMember(t *testing.T, extra ...string) *member {
	t.Helper()
	dir := t.TempDir()
	m := &member{dir: dir, data: filepath.Join(dir, "data"), extra: extra, name: "m0",
		endpoint: "http://" + freeAddr(t), peer: "http://" + freeAddr(t)}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	kek := make([]byte, 32)
	rand.Read(kek)
	if err := os.WriteFile(filepath.Join(dir, "kek"), kek, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.kill)
	return m
}

func (m *member) command() *exec.Cmd {
	args := append(m.args[1:len(m.args):len(m.args)],
		"--name="+m.name, "--data-dir="+m.data,
		"--listen-client-urls="+m.endpoint, "--advertise-client-urls="+m.endpoint,
		"--listen-peer-urls="+m.peer, "--initial-advertise-peer-urls="+m.peer,
		"--initial-cluster="+m.name+"="+m.peer)
	cmd := exec.Command(m.args[0], append(args, m.extra...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(m.dir, "tmp"))
	if m.args[len(m.args)-1] == "serve" {
		cmd.Env = append(cmd.Env, "ETCD_KEK=file:"+filepath.Join(m.dir, "kek"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// launch starts the process without waiting for it to be ready.
func (m *member) launch(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = m.command()
	m.cmd.Stdout, m.cmd.Stderr = log, log
	err = m.cmd.Start()
	log.Close()
	if err != nil {
		t.Fatal(err)
	}
	cmd, gone := m.cmd, make(chan struct{})
	m.gone = gone
	go func() { cmd.Wait(); close(gone) }()
}

// start launches the process and waits until it serves linearizable reads.
func (m *member) start(t *testing.T) {
	t.Helper()
	m.launch(t)
	if err := m.ready(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, m.tail())
	}
}

// ready waits until the member serves linearizable reads; it fails when the
// process ends before.
func (m *member) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.endpoint+"/health?exclude=NOSPACE", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-m.gone:
			return fmt.Errorf("the member ended before it was ready: %v", m.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the member did not become ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// kill ends the process with SIGKILL.
func (m *member) kill() {
	if m.cmd != nil && m.cmd.Process != nil {
		m.cmd.Process.Kill()
		<-m.gone
	}
}

// stop ends the process with SIGTERM.
func (m *member) stop(t *testing.T) {
	t.Helper()
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.gone:
	case <-time.After(30 * time.Second):
		t.Fatal("the member did not end on SIGTERM")
	}
}

// startAndFail starts the process and returns its exit code and what it wrote.
func (m *member) startAndFail(t *testing.T) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := m.command()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		cmd.Process.Kill()
		<-done
		t.Fatalf("the member went on running:\n%s", out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func (m *member) tail() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	if len(b) > 8<<10 {
		b = b[len(b)-8<<10:]
	}
	return string(b)
}

func (m *member) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.endpoint}, Logger: zap.NewNop(), DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
