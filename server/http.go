package server

import (
	"context"
	"errors"
	"log"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cofferkv/coffer/identity"
)

// httpServer answers the HTTP requests of any number of ports. TLS has been taken off its connections.
type httpServer struct {
	in     *handoff
	server *http.Server

	// net/http forgets connections that a handler has taken over, as websockets are, and does not wait for the handler.
	handlers sync.WaitGroup
	mu       sync.Mutex
	taken    map[net.Conn]bool // those of handlers that are running
}

type connKey struct{}

func newHTTPServer(addr net.Addr, handler http.Handler, maxStreams uint32, lg *zap.Logger) *httpServer {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &httpServer{in: newHandoff(addr), taken: map[net.Conn]bool{}}
	s.server = &http.Server{
		Handler:           s.counted(handler),
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: int(min(maxStreams, math.MaxInt32))},
		ReadHeaderTimeout: 5 * time.Minute,
		ErrorLog:          log.New(debugWriter{lg}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return identity.NewContext(context.WithValue(ctx, connKey{}, c), c.(*callerConn).caller)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateHijacked {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.taken[c] = true
			}
		},
	}
	return s
}

// counted notes which handlers run.
func (s *httpServer) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.taken, r.Context().Value(connKey{}).(net.Conn))
			s.handlers.Done()
		}()
		next.ServeHTTP(w, r)
	})
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
	ended := make(chan struct{})
	go func() {
		s.handlers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.taken {
		_ = c.Close()
	}
	s.mu.Unlock()
	select {
	case <-ended:
		return true
	case <-time.After(abortTimeout):
		return false
	}
}

// debugWriter takes net/http's complaints about its clients.
type debugWriter struct{ log *zap.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug("http server", zap.ByteString("message", p))
	return len(p), nil
}
