package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/certs"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/etcd"
	kubeadmconfig "k8s.io/kubernetes/cmd/kubeadm/app/util/config"
)

// TestKubeadmsStaticPodKeepsItsDataWhenItsContainerIsThrownAway takes the
// etcd pod that kubeadm writes, with coffer as the program and a KEK as the
// one argument more, and runs it as a kubelet would.
func TestKubeadmsStaticPodKeepsItsDataWhenItsContainerIsThrownAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace of one's own takes root")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "coffer")
	build(t, program, "../..", "./cmd/coffer")

	config, err := kubeadmconfig.DefaultedStaticInitConfiguration()
	must(t, err)
	config.NodeRegistration.Name = "node"
	config.LocalAPIEndpoint.AdvertiseAddress = "127.0.0.2"
	config.CertificatesDir = filepath.Join(dir, "pki")
	ca, key, err := certs.KubeadmCertEtcdCA().CreateAsCA(config)
	must(t, err)
	for _, certificate := range []*certs.KubeadmCert{certs.KubeadmCertEtcdServer(), certs.KubeadmCertEtcdPeer(), certs.KubeadmCertEtcdHealthcheck(), certs.KubeadmCertEtcdAPIClient()} {
		must(t, certificate.CreateFromCA(config, ca, key))
	}
	// The manifest mounts the data directory and pki/etcd: a KEK must live in one of them, and may not in the first.
	host := config.CertificatesDir
	config.CertificatesDir = "/etc/kubernetes/pki"
	config.Etcd.Local.ExtraArgs = []kubeadmapi.Arg{
		{Name: "kek", Value: "file:/etc/kubernetes/pki/etcd/coffer.kek"}, {Name: "kek-create", Value: "true"}}
	pod := etcd.GetEtcdPodSpec(&config.ClusterConfiguration, &config.LocalAPIEndpoint, "node", nil)
	mounts := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		switch v.Name {
		case "etcd-data":
			mounts[v.HostPath.Path] = filepath.Join(dir, "data")
			must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
		case "etcd-certs":
			mounts[v.HostPath.Path] = filepath.Join(host, "etcd")
		default:
			t.Fatalf("kubeadm mounts %s, which this test does not know", v.Name)
		}
	}
	main := pod.Spec.Containers[0]
	client := etcdClient(t, host)

	run := func(visit func(ctx context.Context)) {
		m := &process{name: "coffer", log: filepath.Join(dir, "log"), probe: probesOf(main)}
		inside, err := json.Marshal(container{Root: t.TempDir(), Program: program, Mounts: mounts, Command: main.Command})
		must(t, err)
		self, err := os.Executable()
		must(t, err)
		m.args, m.env = []string{self}, []string{containerVariable + "=" + string(inside)}
		m.attributes = syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		defer m.kill()
		m.start(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		visit(ctx)
	}
	var revision int64
	run(func(ctx context.Context) {
		for i := range 100 {
			r, err := client.Put(ctx, fmt.Sprintf("/registry/pods/%d", i), "running")
			must(t, err)
			revision = r.Header.Revision
		}
	})
	run(func(ctx context.Context) {
		r, err := client.Get(ctx, "/registry/pods/", clientv3.WithPrefix())
		must(t, err)
		if r.Count != 100 || r.Header.Revision != revision {
			t.Errorf("in a new container: %d of 100 keys, at revision %d of %d", r.Count, r.Header.Revision, revision)
		}
	})
	if log, _ := os.ReadFile(filepath.Join(dir, "log")); strings.Contains(string(log), `"level":"error"`) {
		t.Errorf("errors in a normal run:\n%s", log)
	}
}

// probesOf asks what the kubelet would: startup, readiness and liveness.
func probesOf(c corev1.Container) func(context.Context) error {
	url := func(p *corev1.Probe) string {
		port := p.HTTPGet.Port.String()
		for _, named := range c.Ports {
			if named.Name == port {
				port = fmt.Sprint(named.ContainerPort)
			}
		}
		return strings.ToLower(string(p.HTTPGet.Scheme)) + "://" + p.HTTPGet.Host + ":" + port + p.HTTPGet.Path
	}
	return func(ctx context.Context) error {
		return errors.Join(probeHTTPS(url(c.StartupProbe), nil)(ctx), probeHTTPS(url(c.ReadinessProbe), nil)(ctx), probeHTTPS(url(c.LivenessProbe), nil)(ctx))
	}
}

// etcdClient enters as kubeadm's apiserver does.
func etcdClient(t *testing.T, pki string) *clientv3.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "apiserver-etcd-client.crt"), filepath.Join(pki, "apiserver-etcd-client.key"))
	must(t, err)
	ca, err := os.ReadFile(filepath.Join(pki, "etcd", "ca.crt"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://127.0.0.1:2379"}, Logger: zap.NewNop(),
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}
