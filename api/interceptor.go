package api

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// unary is the one interceptor of unary requests: metrics, admission, caller, log. It is a single function because every
// layer of interceptors is paid for by every request.
func (a *API) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m := a.methods[info.FullMethod]
	if m == nil {
		return handler(withCaller(ctx), req) // not one of this package's services
	}
	start := time.Now()
	m.started.Inc()
	m.received.Inc()
	resp, err := a.admitUnary(ctx, req, handler)
	m.sent.Inc()
	m.handled[codeOf(err)].Inc()
	took := time.Since(start)
	if m.seconds != nil {
		m.seconds.Observe(took.Seconds())
	}
	a.logRequest(ctx, info.FullMethod, req, resp, start, took)
	return resp, err
}

func (a *API) admitUnary(ctx context.Context, req any, handler grpc.UnaryHandler) (any, error) {
	if a.node.Status().IsLearner && !allowedOnLearner(req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if _, err := a.admit(ctx, a.unaryVersions); err != nil {
		return nil, err
	}
	return handler(withCaller(ctx), req)
}

// allowedOnLearner tells which unary requests a learner answers: what needs neither a quorum nor an up-to-date store.
func allowedOnLearner(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	default:
		return false
	}
}

// admit reads the metadata of a request: it counts the client's version and refuses a request that wants a leader while
// there is none. It reports whether a leader is wanted.
func (a *API) admit(ctx context.Context, versions *clientVersions) (needsLeader bool, err error) {
	version := unknownVersion
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		version = v[0]
	}
	if !utf8.ValidString(version) {
		return false, rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	versions.count(version)
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	if len(v) == 0 || v[0] != rpctypes.MetadataHasLeader {
		return false, nil
	}
	if !a.hasLeader() {
		return true, rpctypes.ErrGRPCNoLeader
	}
	return true, nil
}

// stream is the one interceptor of streams.
func (a *API) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m := a.methods[info.FullMethod]
	if m == nil {
		return handler(srv, ss) // not one of this package's services
	}
	start := time.Now()
	m.started.Inc()
	err := a.admitStream(srv, &serverStream{ServerStream: ss, ctx: ss.Context(), metrics: m}, info, handler)
	m.handled[codeOf(err)].Inc()
	if m.seconds != nil {
		m.seconds.Observe(time.Since(start).Seconds())
	}
	return err
}

func (a *API) admitStream(srv any, ss *serverStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if a.node.Status().IsLearner && info.FullMethod != pb.Maintenance_Snapshot_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	needsLeader, err := a.admit(ss.ctx, a.streamVersions)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(withCaller(ss.ctx))
	defer cancel(nil)
	ss.ctx = ctx
	defer a.streams.add(cancel, needsLeader)()
	err = handler(srv, ss)
	if cause := context.Cause(ctx); cause == rpctypes.ErrGRPCNoLeader || cause == rpctypes.ErrGRPCStopped {
		return cause
	}
	return err
}

// serverStream counts messages and carries the context made by the interceptor.
type serverStream struct {
	grpc.ServerStream
	ctx     context.Context
	metrics *methodMetrics
}

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) SendMsg(m any) error {
	s.metrics.sent.Inc()
	return s.ServerStream.SendMsg(m)
}

func (s *serverStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	s.metrics.received.Inc()
	return err
}

// codeOf returns the code that err has on the wire; gRPC gives the errors of contexts their codes.
func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if s, ok := status.FromError(err); ok {
		return min(s.Code(), codes.Unauthenticated)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	return codes.Unknown
}
