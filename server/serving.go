package server

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"

	"github.com/cofferkv/coffer/api"
)

// drainTimeout is how long requests under way get when the member ends.
const drainTimeout = 600 * time.Millisecond

// serving is everything that answers on the member's sockets.
type serving struct {
	log *zap.Logger
	api *api.API

	grpc   *grpc.Server
	grpcIn *handoff
	// client, peer and metrics answer HTTP for their roles.
	client, peer, metrics *httpServer

	ports    []*port
	stopping chan struct{}
	stopOnce sync.Once
	running  sync.WaitGroup
}

// startServing makes the API and opens the doors: those of peers and metrics at once, those of clients when the member
// is ready to answer them.
func (s *Server) startServing() error {
	c := s.c
	member := s.keyring.Member()
	s.api = api.New(api.Options{
		Node: s.node, Store: s.store, Keyring: s.keyring, FS: s.fs, SealedDirs: s.dir.sealed(), ClusterID: member.ClusterID, MemberID: member.MemberID,
		Version: s.build.Version, Certificates: s.certificates,
		MaxTxnOps: int(c.MaxTxnOps), MaxRequestBytes: int(c.MaxRequestBytes), MaxConcurrentStreams: c.MaxConcurrentStreams,
		KeepAliveMinTime: offIsNegative(c.GRPCKeepAliveMinTime), KeepAliveInterval: offIsNegative(c.GRPCKeepAliveInterval),
		KeepAliveTimeout: offIsNegative(c.GRPCKeepAliveTimeout),
		Tick:             c.TickInterval(), ElectionTicks: c.ElectionTicks(), QuotaBytes: c.Quota(), LargeBytes: sizeThreshold(c.Quota()),
		WarnRequestDuration: c.WarningUnaryRequestDuration, WarnReadDuration: c.WarningApplyDuration,
		ExtensiveMetrics: c.Metrics == "extensive", DisableGateway: !c.EnableGRPCGateway,
		CORS: c.CORS, HostWhitelist: c.HostWhitelist, ClientCertAuth: c.Client.ClientCertAuth, BcryptCost: int(c.BcryptCost), Logger: s.log,
	})
	sv := &serving{log: s.log, api: s.api, stopping: make(chan struct{})}
	s.serving = sv

	sv.grpc = grpc.NewServer(append(s.api.ServerOptions(), grpc.Creds(doneCredentials{}), grpc.WaitForHandlers(true))...)
	s.api.Register(sv.grpc)
	addr := s.sockets[0].Addr()
	sv.grpcIn = newHandoff(addr)
	sv.client = newHTTPServer(addr, s.clientHandler(), c.MaxConcurrentStreams, s.log)
	sv.peer = newHTTPServer(addr, s.peerHandler(), c.MaxConcurrentStreams, s.log)
	sv.metrics = newHTTPServer(addr, s.api.MetricsHandler(), c.MaxConcurrentStreams, s.log)
	sv.spawn(s, func() error { return sv.grpc.Serve(sv.grpcIn) })
	for _, h := range []*httpServer{sv.client, sv.peer, sv.metrics} {
		sv.spawn(s, h.run)
	}

	checks := s.newCorruptionChecks()
	if c.Features.Enabled("InitialCorruptCheck") {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		if err := checks.initial(ctx); err != nil {
			return err
		}
	}
	sv.spawn(s, func() error { return s.checkCorruption(checks) })
	sv.spawn(s, s.watchSize)

	split := slices.ContainsFunc(s.sockets, func(o *socket) bool { return o.role == roleClientHTTP })
	var later []*port
	for _, socket := range s.sockets {
		p := s.newPort(socket, split)
		sv.ports = append(sv.ports, p)
		if socket.role == roleClient || socket.role == roleClientHTTP {
			later = append(later, p)
			continue
		}
		sv.spawn(s, p.run)
	}
	sv.spawn(s, func() error {
		select {
		case <-s.node.Ready():
		case <-sv.stopping:
			return nil
		}
		for _, p := range later {
			s.log.Info("ready to serve client requests")
			p.announce()
			sv.spawn(s, p.run)
		}
		return nil
	})
	sv.spawn(s, func() error {
		select {
		case <-s.node.Done():
			return s.node.Err()
		case <-sv.stopping:
			return nil
		}
	})
	return nil
}

// offIsNegative turns etcd's 0, which leaves gRPC's default in force, into api's way of saying so.
func offIsNegative(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (s *Server) newPort(o *socket, split bool) *port {
	p := &port{listener: netutil.LimitListener(o.Listener, connectionLimit()), plain: o.plain, log: s.log, pending: map[net.Conn]bool{}}
	source := s.clientTLS
	p.rejected = "rejected connection on client endpoint"
	switch o.role {
	case roleClient:
		p.grpc = s.serving.grpcIn
		p.traffic = "grpc"
		if !split {
			p.http = s.serving.client
			p.traffic = "grpc+http"
		}
	case roleClientHTTP:
		p.http = s.serving.client
		p.traffic = "http"
	case rolePeer:
		p.http = s.serving.peer
		p.rejected = "rejected connection on peer endpoint"
		p.compareAddress = !s.c.Peer.SkipClientSANVerify
		source = s.peerTLS
	case roleMetrics:
		p.http = s.serving.metrics
	}
	if o.secure {
		p.tls = source
	}
	switch o.role {
	case rolePeer:
		s.log.Info("serving peer traffic", zap.Stringer("address", o.Addr()), zap.Bool("tls", o.secure))
	case roleMetrics:
		s.log.Info("serving metrics", zap.Stringer("address", o.Addr()), zap.Bool("tls", o.secure))
	}
	return p
}

// announce logs, in etcd's words, what a port for clients serves.
func (p *port) announce() {
	if p.plain {
		p.log.Info("serving client traffic insecurely; this is strongly discouraged!",
			zap.String("traffic", p.traffic), zap.Stringer("address", p.listener.Addr()))
	}
	if p.tls != nil {
		p.log.Info("serving client traffic securely",
			zap.String("traffic", p.traffic), zap.Stringer("address", p.listener.Addr()))
	}
}

// clientHandler answers HTTP on client URLs.
func (s *Server) clientHandler() http.Handler {
	handler := s.api.HTTPHandler()
	if !s.c.EnablePprof {
		return handler
	}
	s.log.Info("pprof is enabled", zap.String("path", "/debug/pprof/"))
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// spawn runs something that ends when the member does, or before that with an error.
func (sv *serving) spawn(s *Server, run func() error) {
	sv.running.Add(1)
	go func() {
		defer sv.running.Done()
		if err := run(); err != nil && !sv.isStopping() {
			s.fail(err)
		}
	}()
}

func (sv *serving) isStopping() bool {
	select {
	case <-sv.stopping:
		return true
	default:
		return false
	}
}

// abortTimeout is how long requests get to notice that their connection was cut.
const abortTimeout = 200 * time.Millisecond

// close takes no more requests, ends streams, and gives the requests under way a while to end. It reports whether all have:
// while one has not, what it reads from may not be closed.
func (sv *serving) close(ctx context.Context) (idle bool) {
	sv.stopOnce.Do(func() { close(sv.stopping) })
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for _, p := range sv.ports {
		p.close()
	}
	sv.api.Close() // ends streams
	drained := make(chan struct{})
	go func() {
		sv.grpc.GracefulStop()
		close(drained)
	}()
	idle = true
	for _, h := range []*httpServer{sv.client, sv.peer, sv.metrics} {
		if !h.close(ctx) {
			idle = false
		}
	}
	select {
	case <-drained:
	case <-ctx.Done():
		go sv.grpc.Stop() // waits for its handlers, as GracefulStop does
		select {
		case <-drained:
		case <-time.After(abortTimeout):
			return false
		}
	}
	sv.running.Wait()
	return idle
}
