package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	uri, err := url.Parse("spiffe://cluster.local/ns/kube-system/sa/apiserver")
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabcdef),
		Subject:      pkix.Name{CommonName: "kube-apiserver", Organization: []string{"ops", "system:masters"}},
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"api.example"},
		IPAddresses:  []net.IP{net.ParseIP("192.0.2.7")},
		URIs:         []*url.URL{uri},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func TestACallerIsWhatTheVerifiedCertificateSays(t *testing.T) {
	cert := certificate(t)
	addr := &net.TCPAddr{IP: net.ParseIP("127.0.0.1"), Port: 4711}
	c := FromTLS(&tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{cert},
		VerifiedChains:   [][]*x509.Certificate{{cert}},
	}, addr)

	require.True(t, c.TLS)
	require.True(t, c.Verified)
	require.Equal(t, "kube-apiserver", c.CommonName)
	require.Equal(t, []string{"ops", "system:masters"}, c.Organizations)
	require.Equal(t, []string{"api.example"}, c.DNSNames)
	require.Equal(t, []string{"192.0.2.7"}, c.IPAddresses)
	require.Equal(t, []string{"spiffe://cluster.local/ns/kube-system/sa/apiserver"}, c.URIs)
	require.Equal(t, "abcdef", c.SerialNumber)
	require.Len(t, c.Fingerprint, 64)
	require.Equal(t, "kube-apiserver@127.0.0.1:4711", c.String())
}

func TestAnUnverifiedCertificateProvesNothing(t *testing.T) {
	c := FromTLS(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate(t)}}, nil)
	require.True(t, c.TLS)
	require.False(t, c.Verified)
	require.Empty(t, c.CommonName)
	require.Empty(t, c.Organizations)
	require.Empty(t, c.Fingerprint)
	require.Equal(t, "anonymous", c.String())
}

func TestAContextCarriesItsCaller(t *testing.T) {
	require.Equal(t, &Caller{}, FromContext(context.Background()), "without a caller the anonymous one")
	c := FromTLS(nil, &net.UnixAddr{Name: "/run/coffer.sock", Net: "unix"})
	require.Same(t, c, FromContext(NewContext(context.Background(), c)))
	require.False(t, c.TLS)
	require.Equal(t, "/run/coffer.sock", c.String())
}
