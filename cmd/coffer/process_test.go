package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be coffer itself: a process that was started with this variable runs main.
func TestMain(m *testing.M) {
	if os.Getenv("COFFER_TEST_RUNS_MAIN") == "1" {
		_ = os.Unsetenv("COFFER_TEST_RUNS_MAIN")
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for something that happens at once.
const patience = 30 * time.Second

// process is a coffer process.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	gone chan struct{}

	mu    sync.Mutex
	more  *sync.Cond
	lines []string // of stderr
	ended bool
}

// start starts coffer as name with args and nothing of this process's environment but env.
func start(t *testing.T, name string, args []string, env ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, gone: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	p.cmd = &exec.Cmd{
		Path: self, Args: append([]string{name}, args...), Dir: t.TempDir(), Stdout: &p.out,
		Env: append([]string{"PATH=" + os.Getenv("PATH"), "COFFER_TEST_RUNS_MAIN=1"}, env...),
	}
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.more.Broadcast()
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
		p.mu.Lock()
		p.ended = true
		p.more.Broadcast()
		p.mu.Unlock()
		close(p.gone)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.gone
		if t.Failed() {
			t.Logf("%s\n%s", p.cmd, p.log())
		}
	})
	return p
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// waitFor waits for a line with text and returns it.
func (p *process) waitFor(text string) string {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for seen := 0; ; {
		for ; seen < len(p.lines); seen++ {
			if strings.Contains(p.lines[seen], text) {
				return p.lines[seen]
			}
		}
		if p.ended {
			p.t.Fatalf("the process ended without saying %q:\n%s", text, strings.Join(p.lines, "\n"))
		}
		p.more.Wait()
	}
}

// address waits until clients are served and returns where.
func (p *process) address() string {
	p.t.Helper()
	var line struct{ Address string }
	require.NoError(p.t, json.Unmarshal([]byte(p.waitFor("serving client traffic")), &line))
	return line.Address
}

// wait waits for the end and returns the exit status.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(patience):
		p.t.Fatalf("the process does not end:\n%s", p.log())
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM, waits for the end, and returns how long it took.
func (p *process) stop() time.Duration {
	p.t.Helper()
	begun := time.Now()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(p.t, 0, p.wait(), p.log())
	return time.Since(begun)
}

// fatal waits for the end with status 1 and returns the error of the last line, which must be JSON of level fatal.
func (p *process) fatal() string {
	p.t.Helper()
	require.Equal(p.t, 1, p.wait(), p.log())
	require.NotEmpty(p.t, p.lines)
	var line struct{ Level, Error string }
	require.NoError(p.t, json.Unmarshal([]byte(p.lines[len(p.lines)-1]), &line), p.log())
	require.Equal(p.t, "fatal", line.Level)
	return line.Error
}

// folder is where a member lives.
type folder struct {
	t    *testing.T
	path string
}

func newFolder(t *testing.T) folder {
	t.Helper()
	f := folder{t, t.TempDir()}
	require.NoError(t, os.WriteFile(f.kek(), bytes.Repeat([]byte{7}, 32), 0o600))
	return f
}

func (f folder) kek() string { return filepath.Join(f.path, "kek") }
func (f folder) data(elem ...string) string {
	return filepath.Join(append([]string{f.path, "data"}, elem...)...)
}

// args are the flags of a member on any ports of loopback. Later ones go before.
func (f folder) args(extra ...string) []string {
	return append([]string{
		"--name=m", "--data-dir=" + f.data(), "--kek=file:" + f.kek(), "--disk-reserve-bytes=0",
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0",
		"--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
	}, extra...)
}

func (f folder) serve(extra ...string) *process {
	f.t.Helper()
	return start(f.t, "coffer", append([]string{"serve"}, f.args(extra...)...))
}

// files returns all files below the data directory with their content, LOCK left out.
func (f folder) files() map[string]string {
	f.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(f.data(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = string(text)
		return err
	})
	if !os.IsNotExist(err) {
		require.NoError(f.t, err)
	}
	return files
}

// used returns a folder in which a member has run and ended.
func used(t *testing.T) folder {
	t.Helper()
	f := newFolder(t)
	p := f.serve()
	p.address()
	p.stop()
	return f
}

func coffer(t *testing.T, args ...string) (string, error) {
	t.Helper()
	p := start(t, "coffer", args)
	if code := p.wait(); code != 0 {
		return p.out.String(), fmt.Errorf("exit status %d: %s", code, p.log())
	}
	return p.out.String(), nil
}
