// Package identity says who is calling.
//
// A Caller is what the transport has proved about the other end of a connection: nothing a request claims about itself
// is in it. The server makes one for every connection when its handshake ends, and every request carries it downwards in
// its context, so that whoever decides or records never has to look at a certificate again.
package identity

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
)

// Caller is the proved identity of one end of a connection. The zero Caller is an anonymous one over an unencrypted
// connection. A Caller is never changed after it has been made and may be shared between goroutines.
type Caller struct {
	// RemoteAddr is the address the connection came from, "host:port", or the path of a unix socket, or "".
	RemoteAddr string
	// TLS reports whether the connection is encrypted.
	TLS bool
	// Verified reports whether the caller presented a certificate that leads to a trusted authority. The fields
	// below are empty unless it did: a certificate that was presented but not verified proves nothing.
	Verified bool

	// CommonName is the subject's common name, in etcd the name of the user when client certificate
	// authentication is on.
	CommonName string
	// Organizations are the subject's organizations, which Kubernetes calls groups.
	Organizations []string
	// DNSNames, IPAddresses, URIs and EmailAddresses are the certificate's subject alternative names.
	DNSNames       []string
	IPAddresses    []string
	URIs           []string
	EmailAddresses []string
	// Issuer is the distinguished name of the authority that signed the certificate.
	Issuer string
	// SerialNumber is the certificate's serial number in hexadecimal.
	SerialNumber string
	// Fingerprint is the SHA-256 of the whole certificate in hexadecimal.
	Fingerprint string
}

// FromTLS returns the caller at the other end of a connection from addr whose handshake ended in state. A nil state is
// an unencrypted connection.
func FromTLS(state *tls.ConnectionState, addr net.Addr) *Caller {
	c := &Caller{}
	if addr != nil {
		c.RemoteAddr = addr.String()
	}
	if state == nil {
		return c
	}
	c.TLS = true
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return c
	}
	c.Verified = true
	c.fill(state.VerifiedChains[0][0])
	return c
}

func (c *Caller) fill(cert *x509.Certificate) {
	c.CommonName = cert.Subject.CommonName
	c.Organizations = cert.Subject.Organization
	c.DNSNames = cert.DNSNames
	c.EmailAddresses = cert.EmailAddresses
	for _, ip := range cert.IPAddresses {
		c.IPAddresses = append(c.IPAddresses, ip.String())
	}
	for _, u := range cert.URIs {
		c.URIs = append(c.URIs, u.String())
	}
	c.Issuer = cert.Issuer.String()
	if cert.SerialNumber != nil {
		c.SerialNumber = cert.SerialNumber.Text(16)
	}
	sum := sha256.Sum256(cert.Raw)
	c.Fingerprint = hex.EncodeToString(sum[:])
}

// String names the caller for a log line: the common name if it is proved, and where the connection came from.
func (c *Caller) String() string {
	switch {
	case c == nil:
		return "unknown"
	case c.Verified && c.CommonName != "":
		return c.CommonName + "@" + c.RemoteAddr
	case c.RemoteAddr != "":
		return c.RemoteAddr
	default:
		return "anonymous"
	}
}

type contextKey struct{}

// NewContext returns a context that carries c.
func NewContext(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the caller that ctx carries. It never returns nil: without one it returns an anonymous caller.
func FromContext(ctx context.Context) *Caller {
	if c, ok := ctx.Value(contextKey{}).(*Caller); ok && c != nil {
		return c
	}
	return &Caller{}
}
