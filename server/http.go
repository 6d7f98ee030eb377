package server

import (
	"context"
	"errors"
	"log"
	"math"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/cofferkv/coffer/identity"
)

// httpServer answers the HTTP requests of any number of ports. TLS has been taken off its connections.
type httpServer struct {
	in     *handoff
	server *http.Server
}

func newHTTPServer(addr net.Addr, handler http.Handler, maxStreams uint32, lg *zap.Logger) *httpServer {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &httpServer{
		in: newHandoff(addr),
		server: &http.Server{
			Handler:           handler,
			Protocols:         protocols,
			HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: int(min(maxStreams, math.MaxInt32))},
			ReadHeaderTimeout: 5 * time.Minute,
			ErrorLog:          log.New(debugWriter{lg}, "", 0),
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return identity.NewContext(ctx, c.(*callerConn).caller)
			},
		},
	}
}

// run serves until the server is closed.
func (s *httpServer) run() error {
	if err := s.server.Serve(s.in); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// close lets requests under way end until ctx does, and reports whether they have.
func (s *httpServer) close(ctx context.Context) (idle bool) {
	if err := s.server.Shutdown(ctx); err != nil {
		_ = s.server.Close()
		return false
	}
	return true
}

// debugWriter takes net/http's complaints about its clients.
type debugWriter struct{ log *zap.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug("http server", zap.ByteString("message", p))
	return len(p), nil
}
