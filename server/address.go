package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the questions to the name service about one connection.
const lookupTimeout = 5 * time.Second

// namesAddress checks, as etcd does between members, that a certificate's subject alternative names cover the address
// its holder calls from. A certificate without addresses and names, no certificate, and a unix socket pass.
func namesAddress(state tls.ConnectionState, remote net.Addr) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	cert := state.PeerCertificates[0]
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	if slices.ContainsFunc(cert.IPAddresses, tcp.IP.Equal) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	for _, name := range cert.DNSNames {
		if namesIP(ctx, name, tcp.IP) {
			return nil
		}
	}
	return fmt.Errorf("tls: %q is none of the addresses %v and does not match any of DNSNames %q", tcp.IP, cert.IPAddresses, cert.DNSNames)
}

// namesIP asks the name service whether name, which may begin with "*.", is a name of ip.
func namesIP(ctx context.Context, name string, ip net.IP) bool {
	suffix, wildcard := strings.CutPrefix(name, "*")
	if !wildcard {
		addrs, _ := net.DefaultResolver.LookupIPAddr(ctx, name)
		return slices.ContainsFunc(addrs, func(a net.IPAddr) bool { return a.IP.Equal(ip) })
	}
	names, _ := net.DefaultResolver.LookupAddr(ctx, ip.String())
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(strings.TrimSuffix(n, "."), suffix) })
}
