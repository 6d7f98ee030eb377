package api

import (
	"context"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/cofferkv/coffer/identity"
)

// ConnInfo is what a listener tells gRPC about a connection: who is at its other end. Transport credentials that return
// one from their server handshake have the caller worked out once for each connection. With other credentials it is
// worked out from the TLS state for each request.
type ConnInfo struct {
	credentials.CommonAuthInfo
	Caller *identity.Caller // never nil
}

// AuthType implements credentials.AuthInfo.
func (ConnInfo) AuthType() string { return "coffer" }

// withCaller returns a context that carries the caller of a request, by which every layer below knows on whose behalf it
// acts. A request of the HTTP gateway comes with its caller and keeps it.
func withCaller(ctx context.Context) context.Context {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx
	}
	switch info := p.AuthInfo.(type) {
	case ConnInfo:
		return identity.NewContext(ctx, info.Caller)
	case credentials.TLSInfo:
		return identity.NewContext(ctx, identity.FromTLS(&info.State, p.Addr))
	default:
		return identity.NewContext(ctx, identity.FromTLS(nil, p.Addr))
	}
}
