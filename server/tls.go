package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cofferkv/coffer/config"
)

// identitySource is where a side of the member (towards clients, or towards other members) has its certificates from,
// and the rules by which it admits the other end.
//
// The files are looked at before every handshake and read again when one of them has changed. A set of files that
// cannot be used is reported once and the previous one stays in force: a half-written certificate must not end service.
type identitySource struct {
	files    config.TLS
	suites   []uint16
	min, max uint16
	log      *zap.Logger
	// made is the self-signed certificate of auto-TLS; then there are no files.
	made *tls.Certificate

	mu      sync.Mutex
	stamps  []stamp // of the files when they were last read, whether or not they could be used
	current *tls.Config
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
	file     fs.FileInfo // compared by os.SameFile: an exchanged symbolic link is a change
}

// newIdentitySource reads the files for the first time. An error names the file and what is wrong with it.
func newIdentitySource(files config.TLS, c *config.Config, log *zap.Logger) (*identitySource, error) {
	s := &identitySource{files: files, log: log}
	var err error
	if s.suites, err = c.CipherSuiteIDs(); err != nil {
		return nil, err
	}
	if s.min, err = config.TLSVersion(c.TLSMinVersion); err != nil {
		return nil, err
	}
	if s.max, err = config.TLSVersion(c.TLSMaxVersion); err != nil {
		return nil, err
	}
	s.min = max(s.min, tls.VersionTLS12)
	if files.Empty() && files.Auto {
		urls := slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenPeerURLs, c.ListenMetricsURLs)
		if s.made, err = selfSigned(hostsOf(urls), c.SelfSignedCertValidity); err != nil {
			return nil, fmt.Errorf("make a self-signed certificate: %w", err)
		}
	}
	s.stamps = s.look()
	if s.current, err = s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// serverConfig returns the configuration for a listener.
func (s *identitySource) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: s.min,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.latest(), nil
		},
	}
}

// latest returns the configuration of the newest usable files.
func (s *identitySource) latest() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamps := s.look()
	if slices.EqualFunc(stamps, s.stamps, sameStamp) {
		return s.current
	}
	s.stamps = stamps
	c, err := s.read()
	if err != nil {
		s.log.Warn("changed TLS files cannot be used; the previous ones stay in force", zap.Error(err))
		return s.current
	}
	s.log.Info("TLS files were read again", zap.String("cert-file", s.files.CertFile))
	s.current = c
	return c
}

func (s *identitySource) look() []stamp {
	var stamps []stamp
	for _, path := range []string{s.files.CertFile, s.files.KeyFile, s.files.TrustedCAFile, s.files.CRLFile} {
		var st stamp
		if path != "" {
			if info, err := os.Stat(path); err == nil {
				st = stamp{info.ModTime(), info.Size(), info}
			}
		}
		stamps = append(stamps, st)
	}
	return stamps
}

func sameStamp(a, b stamp) bool {
	if (a.file == nil) != (b.file == nil) {
		return false
	}
	return a.modified.Equal(b.modified) && a.size == b.size && (a.file == nil || os.SameFile(a.file, b.file))
}

// read makes a configuration from the files as they are now.
func (s *identitySource) read() (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:   s.min,
		MaxVersion:   s.max,
		CipherSuites: s.suites,
		NextProtos:   []string{"h2", "http/1.1"},
		// A resumed session would be admitted on the strength of a certificate that was checked earlier.
		SessionTicketsDisabled: true,
	}
	if s.made != nil {
		c.Certificates = []tls.Certificate{*s.made}
		return c, nil
	}
	cert, err := readPair(s.files.CertFile, s.files.KeyFile)
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{*cert}
	if s.files.ClientCertFile != "" {
		if _, err := readPair(s.files.ClientCertFile, s.files.ClientKeyFile); err != nil {
			return nil, err
		}
	}
	if s.files.TrustedCAFile != "" || s.files.ClientCertAuth {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if s.files.TrustedCAFile != "" {
		if c.ClientCAs, err = readAuthorities(s.files.TrustedCAFile); err != nil {
			return nil, err
		}
	}
	revoked, err := readRevoked(s.files.CRLFile)
	if err != nil {
		return nil, err
	}
	c.VerifyConnection = func(state tls.ConnectionState) error { return s.admit(state, revoked) }
	return c, nil
}

// admit applies the rules that go beyond a valid signature.
func (s *identitySource) admit(state tls.ConnectionState, revoked []*big.Int) error {
	for _, cert := range state.PeerCertificates {
		for _, serial := range revoked {
			if serial.Cmp(cert.SerialNumber) == 0 {
				return fmt.Errorf("transport: certificate serial %x revoked", serial)
			}
		}
	}
	names, hosts := s.files.AllowedCNs, s.files.AllowedHostnames
	if len(names) == 0 && len(hosts) == 0 {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		if slices.Contains(names, chain[0].Subject.CommonName) {
			return nil
		}
		if slices.ContainsFunc(hosts, func(h string) bool { return chain[0].VerifyHostname(h) == nil }) {
			return nil
		}
	}
	return errors.New("client certificate authentication failed")
}

func readPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and private key %s cannot be used together: %w: name a certificate and the key it was made for", certFile, keyFile, err)
	}
	return &cert, nil
}

func readAuthorities(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trusted authorities: %w", err)
	}
	pool := x509.NewCertPool()
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trusted authorities %s: %w", path, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("trusted authorities %s: no certificate in PEM form: with none, no client could ever be admitted", path)
	}
	return pool, nil
}

// readRevoked returns the serial numbers that a revocation list names, in DER or PEM form. There is none if path is "".
func readRevoked(path string) ([]*big.Int, error) {
	if path == "" {
		return nil, nil
	}
	list, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate revocation list: %w", err)
	}
	if bytes.HasPrefix(list, []byte("-----BEGIN")) {
		if block, _ := pem.Decode(list); block != nil {
			list = block.Bytes
		}
	}
	crl, err := x509.ParseRevocationList(list)
	if err != nil {
		return nil, fmt.Errorf("certificate revocation list %s: %w", path, err)
	}
	var serials []*big.Int
	for _, entry := range crl.RevokedCertificateEntries {
		serials = append(serials, entry.SerialNumber)
	}
	return serials, nil
}
