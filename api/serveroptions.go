package api

import (
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	defaultKeepAliveMinTime  = 5 * time.Second
	defaultKeepAliveInterval = 2 * time.Hour
	defaultKeepAliveTimeout  = 20 * time.Second

	// streamWorkers is how many goroutines are kept for requests: their stacks have grown already, which costs a new
	// goroutine a seventh of a small request. When all are busy, a request gets a goroutine of its own.
	streamWorkers = 256
)

// ServerOptions returns the options of the gRPC server that the services are registered with: interceptors, codec,
// limits and keep-alive. Only the transport credentials are left to the caller; those that return a ConnInfo spare each
// request the work of finding out its caller.
func (a *API) ServerOptions() []grpc.ServerOption {
	streams := a.o.MaxConcurrentStreams
	if streams == 0 {
		streams = math.MaxUint32
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(a.unary),
		grpc.StreamInterceptor(a.stream),
		grpc.MaxRecvMsgSize(a.maxMessageBytes()),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(streams),
		grpc.NumStreamWorkers(streamWorkers),
	}
	// gRPC's own minimum is five minutes: it would answer kube-apiserver's pings, one in 30 seconds, with GOAWAY.
	if d := orDefault(a.o.KeepAliveMinTime, defaultKeepAliveMinTime); d > 0 {
		opts = append(opts, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: d}))
	}
	interval := orDefault(a.o.KeepAliveInterval, defaultKeepAliveInterval)
	timeout := orDefault(a.o.KeepAliveTimeout, defaultKeepAliveTimeout)
	if interval > 0 && timeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{Time: interval, Timeout: timeout}))
	}
	return opts
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// maxMessageBytes is the size of the largest message that is taken in.
func (a *API) maxMessageBytes() int { return a.o.MaxRequestBytes + messageOverhead }
