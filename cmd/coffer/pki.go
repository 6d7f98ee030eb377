package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"time"
)

const (
	authorityYears   = 10
	certificateYears = 1
	// clockSkew is how far another machine's clock may be behind.
	clockSkew = 5 * time.Minute
)

// authority signs a member's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// makeCertificates makes an authority and the three certificates it signs, each in a pair of files under pki.
func (l layout) makeCertificates() error {
	ca, err := l.makeAuthority()
	if err != nil {
		return err
	}
	hosts := []string{"localhost", "127.0.0.1", "::1", l.Host}
	if machine, err := os.Hostname(); err == nil {
		hosts = append(hosts, machine)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return errors.Join(
		// A server certificate also serves as a client's: whatever calls the member from the same machine may use it.
		l.makeCertificate(ca, "server", l.Name, hosts, both),
		l.makeCertificate(ca, "peer", l.Name, hosts, both),
		l.makeCertificate(ca, "client", "admin", nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}),
	)
}

func (l layout) makeAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newCertificate("Coffer CA of "+l.Name, authorityYears)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, l.writePair("ca", der, key)
}

func (l layout) makeCertificate(ca *authority, file, commonName string, hosts []string, usage []x509.ExtKeyUsage) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newCertificate(commonName, certificateYears)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = usage
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return err
	}
	return l.writePair(file, der, key)
}

func newCertificate(commonName string, years int) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName, Organization: []string{"coffer"}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.AddDate(years, 0, 0),
		BasicConstraintsValid: true,
	}, nil
}

func (l layout) writePair(name string, der []byte, key *ecdsa.PrivateKey) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(l.PKI(name+".crt"), "CERTIFICATE", der, 0o644),
		writePEM(l.PKI(name+".key"), "PRIVATE KEY", pkcs8, 0o600),
	)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close())
}
