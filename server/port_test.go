package server

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// pipes is a listener with as many connections as one likes, none of which takes a file descriptor.
type pipes struct {
	net.Listener
	closed chan struct{}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
		server, _ := net.Pipe()
		return server, nil
	}
}

func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (l pipes) Close() error   { close(l.closed); return nil }

func TestAPortWithAsManyConnectionsAsItMayHoldEndsAtOnce(t *testing.T) {
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: old.Max}))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()

	s := &Server{log: zap.NewNop(), serving: &serving{grpcIn: newHandoff(&net.TCPAddr{})}}
	p := s.newPort(&socket{Listener: pipes{closed: make(chan struct{})}, role: roleClient, plain: true}, true)
	ended := make(chan error)
	go func() { ended <- p.run() }()
	for range connectionLimit() {
		_, err := s.serving.grpcIn.Accept() // taken over, and never closed
		require.NoError(t, err)
	}
	time.Sleep(10 * time.Millisecond) // for the port to wait for room
	p.close()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the port still waits for a connection to end")
	}
}
