package server

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAMembersCertificateNamesTheAddressItCallsFrom(t *testing.T) {
	from := &net.TCPAddr{IP: net.ParseIP("127.0.0.1"), Port: 1}
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		from net.Addr
		ok   bool
	}{
		"no certificate":         {nil, from, true},
		"no names":               {&x509.Certificate{}, from, true},
		"its address":            {&x509.Certificate{IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}}, from, true},
		"another address":        {&x509.Certificate{IPAddresses: []net.IP{net.ParseIP("192.0.2.1")}}, from, false},
		"a name of its address":  {&x509.Certificate{DNSNames: []string{"localhost"}}, from, true},
		"a name of nothing":      {&x509.Certificate{DNSNames: []string{"nosuch.invalid"}}, from, false},
		"an address or a name":   {&x509.Certificate{IPAddresses: []net.IP{net.ParseIP("192.0.2.1")}, DNSNames: []string{"localhost"}}, from, true},
		"whatever, by a socket":  {&x509.Certificate{DNSNames: []string{"nosuch.invalid"}}, &net.UnixAddr{Name: "/s"}, true},
		"a wildcard for nothing": {&x509.Certificate{DNSNames: []string{"*.invalid"}}, from, false},
	} {
		state := tls.ConnectionState{}
		if tt.cert != nil {
			state.PeerCertificates = []*x509.Certificate{tt.cert}
		}
		err := namesAddress(state, tt.from)
		require.Equal(t, tt.ok, err == nil, "%s: %v", name, err)
	}
}
