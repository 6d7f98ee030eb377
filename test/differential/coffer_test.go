// Package differential asks coffer and a real etcd the same and compares every
// answer: responses, errors, revisions, events, hashes. It is a module of its
// own, as nothing of etcd's server belongs into coffer.
//
// COFFER_LONG=1 runs the long forms, 200,000 requests each.
package differential

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/test/requests"
)

// build builds coffer once. It runs as a process of its own, as it registers
// metrics under the names that etcd in this process has taken.
var build = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(buildDir, "coffer")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/coffer")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building coffer: %w\n%s", err, out)
	}
	return binary, nil
})

var buildDir string

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "coffer-differential-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startCoffer starts a member on sealed files. Its restart is a SIGKILL.
func startCoffer(t *testing.T, args ...string) *side {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key := make([]byte, 32)
	rand.Read(key)
	kek := filepath.Join(dir, "kek")
	if err := os.WriteFile(kek, key, 0o600); err != nil {
		t.Fatal(err)
	}
	client, peer := freeAddr(t), freeAddr(t)
	args = append([]string{"serve",
		"--name=m0", "--data-dir=" + filepath.Join(dir, "data"), "--kek=file:" + kek,
		"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer,
		"--initial-cluster=m0=http://" + peer}, args...)
	s := &side{name: "coffer"}
	var cmd *exec.Cmd
	var log bytes.Buffer
	start := func() {
		cmd = exec.Command(binary, args...)
		cmd.Stderr = &log
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.connect(t, client)
		// The first call waits until the member serves, if only to say that it does not know who asks.
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := s.maint.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true)); err != nil && status.Code(err) != codes.InvalidArgument {
			t.Fatalf("coffer is not ready: %v\n%s", err, tail(log.Bytes()))
		}
	}
	s.restart = func() {
		s.disconnect()
		cmd.Process.Kill()
		cmd.Wait()
		start()
	}
	t.Cleanup(func() {
		s.disconnect()
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("coffer ended: %v\n%s", err, tail(log.Bytes()))
		}
	})
	start()
	return s
}

func tail(log []byte) []byte { return log[max(len(log)-4000, 0):] }

func TestCofferAnswersAsEtcd(t *testing.T) {
	histories(t, 4000, func(t *testing.T, seed uint64, n int) error {
		return sequence(t.Context(), startEtcd(t), startCoffer(t), requests.New(seed), n)
	})
}

func TestCofferAnswersConcurrentClientsAsEtcdWouldInTheirOrder(t *testing.T) {
	histories(t, 4000, func(t *testing.T, seed uint64, n int) error {
		const phaseCalls = 100
		return concurrently(t.Context(), startCoffer(t), startEtcd(t), seed, max(n/clients/phaseCalls, 2), phaseCalls)
	})
}

// histories compares one history of short requests, or, in the long form
// (COFFER_LONG=1), as many histories as make 200,000 requests.
func histories(t *testing.T, short int, compare func(t *testing.T, seed uint64, requests int) error) {
	seeds, n := 1, short
	if long {
		seeds, n = 20, 10_000
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			if err := compare(t, seed, n); err != nil {
				t.Fatal(err)
			}
		})
	}
}
