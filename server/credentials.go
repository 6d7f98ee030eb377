package server

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/cofferkv/coffer/api"
)

// doneCredentials are the transport credentials of a gRPC server whose connections have had their handshake: they hand
// gRPC what came out of it.
type doneCredentials struct{}

func (doneCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	known, ok := c.(*callerConn)
	if !ok {
		return nil, nil, errors.New("connection without a caller")
	}
	level := credentials.NoSecurity
	if known.caller.TLS {
		level = credentials.PrivacyAndIntegrity
	}
	return known.Conn, api.ConnInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: level},
		Caller:         known.caller,
	}, nil
}

func (doneCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (doneCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c doneCredentials) Clone() credentials.TransportCredentials { return c }

func (doneCredentials) OverrideServerName(string) error { return nil }
