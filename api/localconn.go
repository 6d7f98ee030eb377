package api

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// localConn is a gRPC client connection to the services of this process without a network between: the gateway's way to
// them. A request passes the same interceptors as one that comes over gRPC, and its caller travels in the context, where
// no client can forge it.
type localConn struct {
	api     *API
	methods map[string]localMethod
	streams map[string]localStream
}

type localMethod struct {
	desc *grpc.MethodDesc
	impl any
}

type localStream struct {
	desc *grpc.StreamDesc
	impl any
}

func newLocalConn(a *API) *localConn {
	c := &localConn{api: a, methods: make(map[string]localMethod), streams: make(map[string]localStream)}
	for _, svc := range a.services {
		prefix := "/" + svc.desc.ServiceName + "/"
		for i := range svc.desc.Methods {
			m := &svc.desc.Methods[i]
			c.methods[prefix+m.MethodName] = localMethod{m, svc.impl}
		}
		for i := range svc.desc.Streams {
			s := &svc.desc.Streams[i]
			c.streams[prefix+s.StreamName] = localStream{s, svc.impl}
		}
	}
	return c
}

// Invoke implements grpc.ClientConnInterface. Call options are ignored.
func (c *localConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	m, ok := c.methods[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	if err := c.checkSize(args); err != nil {
		return err
	}
	decode := func(v any) error {
		proto.Merge(v.(proto.Message), args.(proto.Message))
		return nil
	}
	resp, err := m.desc.Handler(m.impl, incoming(ctx), decode, c.api.unary)
	if err != nil {
		return wireError(err)
	}
	return copyInto(reply.(proto.Message), resp)
}

// checkSize refuses what the gRPC server would refuse to receive.
func (c *localConn) checkSize(m any) error {
	if size, limit := proto.Size(m.(proto.Message)), c.api.maxMessageBytes(); size > limit {
		return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", size, limit)
	}
	return nil
}

// incoming turns a client's context into the one its server would see.
func incoming(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewIncomingContext(ctx, md)
}

// wireError is err as it would come out of a connection.
func wireError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codeOf(err), err.Error())
}

// NewStream implements grpc.ClientConnInterface. The stream ends when its context does.
func (c *localConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	s, ok := c.streams[method]
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	fault, _ := ctx.Value(streamFaultKey{}).(streamFault)
	p := &pipe{
		fault:    fault,
		begun:    make(chan struct{}),
		ctx:      incoming(ctx),
		conn:     c,
		toServer: make(chan proto.Message),
		toClient: make(chan any),
		closed:   make(chan struct{}),
		done:     make(chan struct{}),
	}
	info := &grpc.StreamServerInfo{FullMethod: method, IsClientStream: s.desc.ClientStreams, IsServerStream: s.desc.ServerStreams}
	go func() {
		p.err = c.api.stream(s.impl, serverEnd{p}, info, s.desc.Handler)
		close(p.done)
	}()
	return clientEnd{p}, nil
}

// pipe is a stream within the process.
type pipe struct {
	ctx       context.Context
	conn      *localConn
	toServer  chan proto.Message
	toClient  chan any // messages as copyInto takes them
	fault     streamFault
	beginOnce sync.Once
	begun     chan struct{} // the first message was sent
	closeOnce sync.Once
	closed    chan struct{} // the client will send no more
	done      chan struct{} // the handler has returned err
	err       error
}

// clientEnd is the gateway's end of a pipe.
type clientEnd struct{ *pipe }

func (clientEnd) Trailer() metadata.MD       { return nil }
func (c clientEnd) Context() context.Context { return c.ctx }

// Header waits for the first message: if there is none because of a fault, the request is answered as any bad request.
func (c clientEnd) Header() (metadata.MD, error) {
	select {
	case <-c.begun:
	case <-c.closed:
	case <-c.done:
	}
	select {
	case err := <-c.fault:
		return nil, err
	default:
		return nil, nil
	}
}

func (c clientEnd) CloseSend() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return nil
}

func (c clientEnd) SendMsg(m any) error {
	if err := c.conn.checkSize(m); err != nil {
		c.fault.report(err)
		return err
	}
	select {
	case c.toServer <- proto.Clone(m.(proto.Message)):
		c.beginOnce.Do(func() { close(c.begun) })
		return nil
	case <-c.done:
		return io.EOF // RecvMsg returns why
	}
}

func (c clientEnd) RecvMsg(m any) error {
	select {
	case got := <-c.toClient:
		return copyInto(m.(proto.Message), got)
	case err := <-c.fault:
		return err
	case <-c.done:
		select {
		case err := <-c.fault:
			return err
		default:
		}
		if c.err != nil {
			return wireError(c.err)
		}
		return io.EOF
	}
}

// serverEnd is the handler's end of a pipe.
type serverEnd struct{ *pipe }

func (serverEnd) SetHeader(metadata.MD) error  { return nil }
func (serverEnd) SendHeader(metadata.MD) error { return nil }
func (serverEnd) SetTrailer(metadata.MD)       {}
func (s serverEnd) Context() context.Context   { return s.ctx }

// SendMsg returns when the gateway has taken the message; it keeps no reference to m, unless that is encoded and thus
// will not change.
func (s serverEnd) SendMsg(m any) error {
	if _, ok := m.(encoded); !ok {
		m = proto.Clone(m.(proto.Message))
	}
	select {
	case s.toClient <- m:
		return nil
	case <-s.ctx.Done():
		return wireError(s.ctx.Err())
	}
}

func (s serverEnd) RecvMsg(m any) error {
	select {
	case got := <-s.toServer:
		proto.Merge(m.(proto.Message), got)
		return nil
	case <-s.closed:
		return io.EOF
	case <-s.ctx.Done():
		return wireError(s.ctx.Err())
	case <-s.done:
		return io.EOF // the handler has left this reader behind
	}
}
