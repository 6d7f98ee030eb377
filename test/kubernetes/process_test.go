package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// process is a server under test: the command that starts it, and how to tell
// that it is ready.
type process struct {
	name  string
	args  []string
	env   []string
	log   string
	probe func(context.Context) error
	// attributes of the process beyond its end with the test's.
	attributes syscall.SysProcAttr
	cmd        *exec.Cmd
	gone       chan struct{}
}

// start runs the process and waits until its probe succeeds.
func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	attributes := p.attributes
	attributes.Pdeathsig = syscall.SIGKILL
	p.cmd.SysProcAttr = &attributes
	err = p.cmd.Start()
	log.Close()
	if err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	gone := make(chan struct{})
	p.gone = gone
	go func() { p.cmd.Wait(); close(gone) }()

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		err := p.probe(ctx)
		if err == nil {
			tick.Stop()
			return
		}
		select {
		case <-gone:
			t.Fatalf("%s ended before it was ready: %v\n%s", p.name, p.cmd.ProcessState, p.tail())
		case <-ctx.Done():
			t.Fatalf("%s did not become ready: %v\n%s", p.name, err, p.tail())
		case <-tick.C:
		}
	}
}

// kill ends the process with SIGKILL: nothing of its own can tidy up.
func (p *process) kill() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		<-p.gone
	}
}

// tail returns the end of the process's log.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	if len(b) > 8<<10 {
		b = b[len(b)-8<<10:]
	}
	return string(b)
}

// probeHTTPS is satisfied when url answers 200.
func probeHTTPS(url string, conf *tls.Config) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
		}
		return nil
	}
}

// newMember describes a coffer member over mutual TLS on free loopback ports,
// started with the flags that kubeadm gives etcd.
func newMember(t *testing.T, p *pki, dir string) (m *process, endpoint string) {
	t.Helper()
	bin := filepath.Join(dir, "coffer")
	build(t, bin, "../..", "./cmd/coffer")
	kek := make([]byte, 32)
	rand.Read(kek)
	if err := os.WriteFile(filepath.Join(dir, "kek"), kek, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"member", "client"} {
		p.issue(t, name)
	}
	endpoint = "https://" + freeAddr(t)
	peer := "https://" + freeAddr(t)
	metrics := "http://" + freeAddr(t)
	m = &process{
		name: "coffer",
		log:  filepath.Join(dir, "coffer.log"),
		env:  []string{"ETCD_KEK=file:" + filepath.Join(dir, "kek")},
		args: []string{bin, "serve",
			"--name=control-plane", "--data-dir=" + filepath.Join(dir, "data"),
			"--listen-client-urls=" + endpoint, "--advertise-client-urls=" + endpoint,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=control-plane=" + peer,
			"--cert-file=" + p.path("member.crt"), "--key-file=" + p.path("member.key"),
			"--trusted-ca-file=" + p.path("ca.crt"), "--client-cert-auth=true",
			"--peer-cert-file=" + p.path("member.crt"), "--peer-key-file=" + p.path("member.key"),
			"--peer-trusted-ca-file=" + p.path("ca.crt"), "--peer-client-cert-auth=true",
			"--snapshot-count=10000", "--listen-metrics-urls=" + metrics,
			"--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s"},
		probe: probeHTTPS(metrics+"/readyz", nil),
	}
	return m, endpoint
}

// newAPIServer describes a kube-apiserver that keeps everything in the member
// at endpoint, and the address and token by which its administrator enters.
func newAPIServer(t *testing.T, p *pki, dir, endpoint string) (a *process, host, token string) {
	t.Helper()
	bin := filepath.Join(dir, "kube-apiserver")
	if built := os.Getenv("COFFER_KUBE_APISERVER"); built != "" {
		bin = built
	} else {
		build(t, bin, ".", "k8s.io/kubernetes/cmd/kube-apiserver")
	}
	p.issue(t, "apiserver")
	account := newKey(t)
	writeKey(t, p.path("service-account.key"), account)
	public, err := x509.MarshalPKIXPublicKey(&account.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, p.path("service-account.pub"), "PUBLIC KEY", public, 0o644)
	token = rand.Text()
	if err := os.WriteFile(filepath.Join(dir, "tokens.csv"), []byte(token+`,admin,admin,"system:masters"`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	ca := x509.NewCertPool()
	ca.AddCert(p.cert)
	a = &process{
		name: "kube-apiserver",
		log:  filepath.Join(dir, "kube-apiserver.log"),
		args: []string{bin,
			"--etcd-servers=" + endpoint, "--etcd-cafile=" + p.path("ca.crt"),
			"--etcd-certfile=" + p.path("client.crt"), "--etcd-keyfile=" + p.path("client.key"),
			"--bind-address=127.0.0.1", "--secure-port=" + port, "--external-hostname=localhost", "--endpoint-reconciler-type=none",
			"--tls-cert-file=" + p.path("apiserver.crt"), "--tls-private-key-file=" + p.path("apiserver.key"),
			"--cert-dir=" + dir, "--token-auth-file=" + filepath.Join(dir, "tokens.csv"),
			"--authorization-mode=RBAC", "--anonymous-auth=true",
			"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + p.path("service-account.pub"),
			"--service-account-signing-key-file=" + p.path("service-account.key"),
			"--disable-admission-plugins=ServiceAccount",
			"--max-requests-inflight=1000", "--max-mutating-requests-inflight=1000"},
		probe: probeHTTPS("https://"+addr+"/readyz", &tls.Config{RootCAs: ca}),
	}
	return a, "https://" + addr, token
}

func build(t *testing.T, out, dir, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, b)
	}
}

// freeAddr is a loopback address nothing listens on just now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
