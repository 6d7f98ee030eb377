package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cofferkv/coffer/identity"
	"go.uber.org/zap"
)

// A websocket is a handler that has taken its connection over. What it reads from must not be closed before it ends.
func TestHandlersThatTookTheirConnectionsAreWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		deaf bool // goes on when its connection is closed
		idle bool
	}{
		"ends with its connection": {false, true},
		"does not end":             {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			taken, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
			s := newHTTPServer(&net.TCPAddr{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				defer close(ended)
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				close(taken)
				_, _ = io.Copy(io.Discard, c)
				if test.deaf {
					<-release
				}
			}), 1, zap.NewNop())
			go func() { _ = s.run() }()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.in.give(&callerConn{c, &identity.Caller{}}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			<-taken
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if idle := s.close(ctx); idle != test.idle {
				t.Errorf("close says %v", idle)
			}
			select {
			case <-ended:
				if !test.idle {
					t.Error("the handler has ended")
				}
			default:
				if test.idle {
					t.Error("the handler is still running")
				}
			}
			close(release)
			client.Close()
			<-ended
		})
	}
}
