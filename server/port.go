package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/cofferkv/coffer/identity"
)

const (
	handshakeTimeout = 10 * time.Second
	// recordTypeHandshake is the first byte of a TLS connection (RFC 8446, section 5.1). No HTTP begins with it.
	recordTypeHandshake = 22
)

// port serves one listening address.
//
// It ends TLS itself and finds out on the decrypted stream what a client speaks, so that gRPC has its own transport on
// every address that it shares with HTTP, and net/http the rest. Every connection is prepared in a goroutine of its own:
// a client that is slow to say what it wants holds nobody up.
type port struct {
	listener net.Listener    // holds back connections beyond the limit
	tls      *identitySource // nil: no TLS
	plain    bool            // whether connections without TLS are served
	grpc     *handoff        // nil: no gRPC
	http     *httpServer     // nil: no HTTP
	log      *zap.Logger
	rejected string // what a failed handshake is logged as
	// compareAddress demands that the other end calls from an address that its certificate names.
	compareAddress bool
	traffic        string // what is served, for the log

	mu      sync.Mutex
	pending map[net.Conn]bool // connections that nobody has taken over yet
	closed  bool
	wg      sync.WaitGroup
}

// callerConn is a connection whose caller is known.
type callerConn struct {
	net.Conn
	caller *identity.Caller
}

// run accepts connections until the port is closed.
func (p *port) run() error {
	delay := time.Duration(0)
	for {
		c, err := p.listener.Accept()
		if err != nil {
			var errno syscall.Errno
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if !errors.As(err, &errno) || !errno.Temporary() {
				return err
			}
			// Out of file descriptors, mostly: connections that end make room.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			p.log.Warn("accepting connections is held up", zap.Stringer("address", p.listener.Addr()), zap.Error(err))
			time.Sleep(delay)
			continue
		}
		delay = 0
		if !p.hold(c) {
			_ = c.Close()
			return nil
		}
		go func() {
			defer p.wg.Done()
			if err := p.prepare(c); err != nil {
				p.release(c)
				_ = c.Close()
			}
		}()
	}
}

// hold notes that c is the port's to close.
func (p *port) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.pending[c] = true
	p.wg.Add(1)
	return true
}

// release notes that c is the port's no longer.
func (p *port) release(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, c)
}

// close stops accepting and closes the connections that have not been handed on.
func (p *port) close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.pending {
		_ = c.Close()
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.wg.Wait()
}

// prepare makes the handshake, finds out the protocol and hands the connection on.
func (p *port) prepare(raw net.Conn) error {
	c, state, err := p.secure(raw)
	if err != nil {
		return err
	}
	caller := identity.FromTLS(state, raw.RemoteAddr())
	if p.http == nil {
		p.release(raw)
		return p.grpc.give(&callerConn{c, caller})
	}
	speaks, first, err := sniff(c)
	if err != nil {
		return err
	}
	p.release(raw)
	replay := &replayed{Conn: c, first: first}
	switch {
	case speaks == protocolHTTP1:
		return p.http.in.give(&callerConn{replay, caller})
	case speaks == protocolGRPC && p.grpc != nil:
		return p.grpc.give(&callerConn{replay, caller})
	default:
		return p.http.in.give(&callerConn{newAckFilter(replay), caller})
	}
}

// secure returns the connection to talk over: c itself, or the TLS connection on it.
func (p *port) secure(c net.Conn) (net.Conn, *tls.ConnectionState, error) {
	if p.tls == nil {
		return c, nil, nil
	}
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, nil, err
	}
	if p.plain {
		var first [1]byte
		if _, err := io.ReadFull(c, first[:]); err != nil {
			return nil, nil, err
		}
		c = &replayed{Conn: c, first: first[:]}
		if first[0] != recordTypeHandshake {
			return c, nil, c.SetDeadline(time.Time{})
		}
	}
	t := tls.Server(c, p.tls.serverConfig())
	if err := t.Handshake(); err != nil {
		p.reject(t, err)
		return nil, nil, err
	}
	if err := t.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	state := t.ConnectionState()
	if p.compareAddress {
		if err := namesAddress(state, c.RemoteAddr()); err != nil {
			p.reject(t, err)
			return nil, nil, err
		}
	}
	return t, &state, nil
}

// reject logs a failed handshake, in etcd's words, with what the client said about itself.
func (p *port) reject(t *tls.Conn, err error) {
	state := t.ConnectionState()
	fields := []zap.Field{
		zap.Stringer("remote-addr", t.RemoteAddr()),
		zap.String("server-name", state.ServerName),
	}
	if len(state.PeerCertificates) > 0 {
		cert := state.PeerCertificates[0]
		ips := make([]string, len(cert.IPAddresses))
		for i, ip := range cert.IPAddresses {
			ips[i] = ip.String()
		}
		fields = append(fields, zap.Strings("ip-addresses", ips), zap.Strings("dns-names", cert.DNSNames))
	}
	fields = append(fields, zap.Error(err))
	if errors.Is(err, io.EOF) {
		p.log.Debug(p.rejected, fields...) // port scans and health checks of load balancers
	} else {
		p.log.Warn(p.rejected, fields...)
	}
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) && notTLS.Conn != nil && looksLikeHTTP(notTLS.RecordHeader) {
		_, _ = io.WriteString(notTLS.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks HTTPS only.\n")
	}
}

func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// handoff is a listener whose connections come from ports.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff(addr net.Addr) *handoff {
	return &handoff{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands c to whoever accepts. With an error c is still the caller's.
func (h *handoff) give(c net.Conn) error {
	select {
	case h.conns <- c:
		return nil
	case <-h.done:
		return net.ErrClosed
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return h.addr }
