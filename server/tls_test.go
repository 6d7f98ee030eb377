package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cofferkv/coffer/config"
)

// testCA signs certificates into a folder.
type testCA struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{t: t, dir: t.TempDir(), next: 1}
	ca.cert, ca.key = ca.sign("ca", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign})
	return ca
}

func (ca *testCA) path(name string) string { return filepath.Join(ca.dir, name) }

// sign makes name.crt and name.key.
func (ca *testCA) sign(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(ca.t, err)
	ca.next++
	template.SerialNumber = big.NewInt(ca.next)
	if template.Subject.CommonName == "" {
		template.Subject = pkix.Name{CommonName: name}
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	require.NoError(ca.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(ca.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(ca.t, err)
	ca.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	ca.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return cert, key
}

// write replaces a file as a key manager does: by renaming.
func (ca *testCA) write(name string, text []byte) {
	ca.t.Helper()
	require.NoError(ca.t, os.WriteFile(ca.path(name+".new"), text, 0o600))
	require.NoError(ca.t, os.Rename(ca.path(name+".new"), ca.path(name)))
}

func (ca *testCA) revoke(name string, serials ...*big.Int) {
	ca.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	require.NoError(ca.t, err)
	ca.write(name, der)
}

// client returns a TLS configuration that trusts the CA and shows the certificate of that name, or none.
func (ca *testCA) client(name string) *tls.Config {
	ca.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	c := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(ca.path(name+".crt"), ca.path(name+".key"))
		require.NoError(ca.t, err)
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func testSource(t *testing.T, log *zap.Logger, change ...func(*config.Config)) *identitySource {
	t.Helper()
	c := config.Default()
	c.Client.Auto = true
	for _, f := range change {
		f(c)
	}
	if log == nil {
		log = zap.NewNop()
	}
	s, err := newIdentitySource(c.Client, c, log)
	require.NoError(t, err)
	return s
}

func get(addr string, c *tls.Config) error {
	transport := &http.Transport{TLSClientConfig: c}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + addr + "/")
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestClientsAreAdmittedByEtcdsRules(t *testing.T) {
	ca := newTestCA(t)
	ca.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}})
	ca.sign("alice", &x509.Certificate{DNSNames: []string{"alice.example"}})
	revoked, _ := ca.sign("mallory", &x509.Certificate{DNSNames: []string{"alice.example"}})
	ca.revoke("crl", revoked.SerialNumber)
	other := newTestCA(t)
	other.sign("eve", &x509.Certificate{DNSNames: []string{"alice.example"}})
	eve := ca.client("")
	eve.Certificates = other.client("eve").Certificates

	base := config.TLS{CertFile: ca.path("server.crt"), KeyFile: ca.path("server.key"), TrustedCAFile: ca.path("ca.crt")}
	for name, tt := range map[string]struct {
		files  func(*config.TLS)
		client *tls.Config
		admit  bool
	}{
		"a signed certificate":              {nil, ca.client("alice"), true},
		"no certificate":                    {nil, ca.client(""), false},
		"another authority's certificate":   {nil, eve, false},
		"a revoked one, no list":            {nil, ca.client("mallory"), true},
		"a revoked one":                     {func(f *config.TLS) { f.CRLFile = ca.path("crl") }, ca.client("mallory"), false},
		"one that is not on the list":       {func(f *config.TLS) { f.CRLFile = ca.path("crl") }, ca.client("alice"), true},
		"an allowed host name":              {func(f *config.TLS) { f.AllowedHostnames = []string{"x", "alice.example"} }, ca.client("alice"), true},
		"a host name that is not allowed":   {func(f *config.TLS) { f.AllowedHostnames = []string{"x"} }, ca.client("alice"), false},
		"an allowed common name":            {func(f *config.TLS) { f.AllowedCNs = []string{"alice"} }, ca.client("alice"), true},
		"a common name that is not allowed": {func(f *config.TLS) { f.AllowedCNs = []string{"bob"} }, ca.client("alice"), false},
		"no certificate wanted":             {func(f *config.TLS) { f.TrustedCAFile = "" }, ca.client(""), true},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			files := base
			if tt.files != nil {
				tt.files(&files)
			}
			source := testSource(t, zap.New(core), func(c *config.Config) { c.Client = files })
			addr, callers := startPort(t, source, false)
			err := get(addr, tt.client)
			if !tt.admit {
				require.Error(t, err)
				return
			}
			require.NoError(t, err, logs.All())
			caller := <-callers
			require.True(t, caller.TLS)
			require.Equal(t, files.TrustedCAFile != "", caller.Verified)
		})
	}
}

func TestGRPCKnowsTheCallerOfATLSConnection(t *testing.T) {
	ca := newTestCA(t)
	ca.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}})
	ca.sign("alice", &x509.Certificate{})
	source := testSource(t, nil, func(c *config.Config) {
		c.Client = config.TLS{CertFile: ca.path("server.crt"), KeyFile: ca.path("server.key"), TrustedCAFile: ca.path("ca.crt")}
	})
	addr, callers := startPort(t, source, true) // http and https share the port
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(ca.client("alice"))))
	require.NoError(t, err)
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)

	require.NoError(t, get(addr, ca.client("alice")))
	require.Equal(t, "alice", (<-callers).CommonName)
	resp, err := http.Get("http://" + addr + "/")
	require.NoError(t, err)
	resp.Body.Close()
	require.False(t, (<-callers).TLS)
}

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	ca := newTestCA(t)
	ca.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}, Subject: pkix.Name{CommonName: "first"}})
	core, logs := observer.New(zap.InfoLevel)
	source := testSource(t, zap.New(core), func(c *config.Config) {
		c.Client = config.TLS{CertFile: ca.path("server.crt"), KeyFile: ca.path("server.key")}
	})
	addr, _ := startPort(t, source, false)
	shown := func() string {
		c, err := tls.Dial("tcp", addr, ca.client(""))
		require.NoError(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	require.Equal(t, "first", shown())
	ca.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}, Subject: pkix.Name{CommonName: "second"}})
	require.Equal(t, "second", shown())
	require.Len(t, logs.FilterMessage("TLS files were read again").All(), 1)

	// Half of a new pair: the old one stays, and the log says so once.
	text, err := os.ReadFile(ca.path("server.key"))
	require.NoError(t, err)
	ca.sign("stranger", &x509.Certificate{})
	stranger, err := os.ReadFile(ca.path("stranger.key"))
	require.NoError(t, err)
	ca.write("server.key", stranger)
	require.Equal(t, "second", shown())
	require.Equal(t, "second", shown())
	require.Len(t, logs.FilterMessage("changed TLS files cannot be used; the previous ones stay in force").All(), 1)
	ca.write("server.key", text)
	require.Equal(t, "second", shown())

	require.NoError(t, os.Remove(ca.path("server.crt")))
	require.Equal(t, "second", shown(), "a missing file ends nothing")
}

func TestARevocationCountsForTheNextConnection(t *testing.T) {
	ca := newTestCA(t)
	ca.sign("server", &x509.Certificate{DNSNames: []string{"localhost"}})
	alice, _ := ca.sign("alice", &x509.Certificate{})
	ca.revoke("crl", big.NewInt(999))
	source := testSource(t, nil, func(c *config.Config) {
		c.Client = config.TLS{CertFile: ca.path("server.crt"), KeyFile: ca.path("server.key"), TrustedCAFile: ca.path("ca.crt"), CRLFile: ca.path("crl")}
	})
	addr, _ := startPort(t, source, false)
	client := ca.client("alice")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	require.NoError(t, get(addr, client))
	ca.revoke("crl", big.NewInt(999), alice.SerialNumber)
	require.Error(t, get(addr, client), "not by a resumed session either")
}

func TestBadTLSFilesAreRefusedByName(t *testing.T) {
	ca := newTestCA(t)
	ca.sign("server", &x509.Certificate{})
	ca.sign("other", &x509.Certificate{})
	ca.write("empty", nil)
	ca.write("nonsense", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	base := config.TLS{CertFile: ca.path("server.crt"), KeyFile: ca.path("server.key")}
	for want, change := range map[string]func(*config.TLS){
		"cannot be used together":                  func(f *config.TLS) { f.KeyFile = ca.path("other.key") },
		"read certificate: open":                   func(f *config.TLS) { f.CertFile = ca.path("missing") },
		"read private key: open":                   func(f *config.TLS) { f.KeyFile = ca.path("missing") },
		"no certificate in PEM form":               func(f *config.TLS) { f.TrustedCAFile = ca.path("empty") },
		"trusted authorities " + ca.path("nonsen"): func(f *config.TLS) { f.TrustedCAFile = ca.path("nonsense") },
		"certificate revocation list":              func(f *config.TLS) { f.CRLFile = ca.path("nonsense") },
		"private key " + ca.path("other.key"):      func(f *config.TLS) { f.ClientCertFile, f.ClientKeyFile = ca.path("server.crt"), ca.path("other.key") },
	} {
		files := base
		change(&files)
		_, err := newIdentitySource(files, config.Default(), zap.NewNop())
		require.ErrorContains(t, err, want)
	}
}

func TestTLSVersionsAndSuitesAreBounded(t *testing.T) {
	source := testSource(t, nil, func(c *config.Config) {
		c.TLSMaxVersion = "TLS1.2"
		c.CipherSuites = []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}
	})
	addr, _ := startPort(t, source, false)
	dial := func(minVersion, maxVersion uint16) (*tls.Conn, error) {
		return tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: minVersion, MaxVersion: maxVersion})
	}
	_, err := dial(tls.VersionTLS13, tls.VersionTLS13)
	require.Error(t, err)
	_, err = dial(tls.VersionTLS10, tls.VersionTLS11)
	require.Error(t, err)
	c, err := dial(tls.VersionTLS12, tls.VersionTLS13)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, c.ConnectionState().CipherSuite)
}
