package server

import (
	"net"
	"net/url"
	"slices"

	"github.com/cofferkv/coffer/config"
)

// role is what a listening address is for.
type role int

const (
	roleClient     role = iota // gRPC, and HTTP unless there are addresses for HTTP only
	roleClientHTTP             // HTTP only
	rolePeer
	roleMetrics
)

// socket is a bound listening address.
type socket struct {
	net.Listener
	role    role
	address config.Address
	plain   bool // serves connections without TLS
	secure  bool // serves connections with TLS
}

func (s *socket) close() { _ = s.Listener.Close() }

// openSockets binds all addresses. http and https URLs of one role may share one.
func (s *Server) openSockets() error {
	for _, group := range []struct {
		role role
		flag string
		urls []url.URL
	}{
		{roleClient, "listen-client-urls", s.c.ListenClientURLs},
		{roleClientHTTP, "listen-client-http-urls", s.c.ListenClientHTTPURLs},
		{rolePeer, "listen-peer-urls", s.c.ListenPeerURLs},
		{roleMetrics, "listen-metrics-urls", s.c.ListenMetricsURLs},
	} {
		for _, u := range group.urls {
			a := config.ListenAddress(u)
			socket, err := s.bindOnce(group.role, group.flag, a)
			if err != nil {
				return err
			}
			socket.secure = socket.secure || a.TLS
			socket.plain = socket.plain || !a.TLS
		}
	}
	return nil
}

func (s *Server) bindOnce(r role, flag string, a config.Address) (*socket, error) {
	i := slices.IndexFunc(s.sockets, func(o *socket) bool {
		return o.role == r && o.address.Network == a.Network && o.address.Addr == a.Addr
	})
	if i >= 0 {
		return s.sockets[i], nil
	}
	l, err := bind(a, flag, s.c)
	if err != nil {
		return nil, err
	}
	bound := &socket{Listener: l, role: r, address: a}
	s.sockets = append(s.sockets, bound)
	return bound, nil
}
