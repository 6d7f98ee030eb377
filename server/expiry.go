package server

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"time"

	"github.com/cofferkv/coffer/api"
)

// certificates returns what the member shows to others or checks them by. A file that cannot be read is left out: that is
// logged when it is to be used.
func (s *Server) certificates() []api.Certificate {
	var all []api.Certificate
	seen := map[string]bool{"": true}
	for _, source := range []*identitySource{s.clientTLS, s.peerTLS} {
		if source == nil {
			continue
		}
		if source.made != nil {
			if leaf, err := x509.ParseCertificate(source.made.Certificate[0]); err == nil {
				all = append(all, api.Certificate{NotAfter: leaf.NotAfter})
			}
		}
		for _, path := range []string{source.files.CertFile, source.files.ClientCertFile, source.files.TrustedCAFile} {
			if seen[path] {
				continue
			}
			seen[path] = true
			// A chain is good until its first certificate ends, a collection of authorities until its last one does.
			first, last := validity(path)
			if path == source.files.TrustedCAFile {
				first = last
			}
			if !first.IsZero() {
				all = append(all, api.Certificate{File: path, NotAfter: first})
			}
		}
	}
	return all
}

// validity returns when the first and the last of the certificates in a file end.
func validity(path string) (first, last time.Time) {
	text, err := os.ReadFile(path)
	if err != nil {
		return first, last
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
		if cert.NotAfter.After(last) {
			last = cert.NotAfter
		}
	}
	return first, last
}
