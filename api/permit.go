package api

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/identity"
)

// user returns the user on whose behalf a request is made, as a token names it, or else the common name of the client's
// certificate; nobody, if neither does. s is the state, taken before: a token that was ended later comes with a revision
// that is refused.
func (a *API) user(ctx context.Context, s *auth.State) (auth.Caller, error) {
	if s.Enabled() {
		if token, ok := tokenOf(ctx); ok {
			return a.userOfToken(ctx, s, token)
		}
	}
	if a.o.ClientCertAuth {
		return userOfCertificate(ctx, s), nil
	}
	return auth.Caller{}, nil
}

// tokenOf returns the token in the metadata of a request. That of a request over the gateway has the name of HTTP's header.
func tokenOf(ctx context.Context) (string, bool) {
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC)
	if len(v) == 0 {
		v = metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameSwagger)
	}
	if len(v) == 0 {
		return "", false
	}
	return strings.TrimPrefix(v[0], "Bearer "), true
}

func (a *API) userOfToken(ctx context.Context, s *auth.State, token string) (auth.Caller, error) {
	tokens := a.store.Tokens()
	if c, ok := tokens.Caller(token, s.Revision()); ok {
		return c, nil
	}
	// Another member may have issued it a moment ago. Whatever was acknowledged anywhere is here after a read index; that is
	// asked for only when the token says that it is from beyond what has been applied here.
	if index, ok := tokens.Index(token); ok {
		if applied, _ := a.store.Applied(); index > applied {
			if err := a.node.ReadIndex(ctx); err != nil {
				return auth.Caller{}, err
			}
		}
		if c, ok := tokens.Caller(token, s.Revision()); ok {
			return c, nil
		}
	}
	return auth.Caller{}, auth.ErrInvalidToken
}

// userOfCertificate returns the user whose name is the common name of the client's certificate. A request that came over a
// gateway, our own or one in another process, came over the gateway's connection, and says nothing by its certificate.
func userOfCertificate(ctx context.Context, s *auth.State) auth.Caller {
	caller := identity.FromContext(ctx)
	if _, direct := peer.FromContext(ctx); !direct || !caller.Verified {
		return auth.Caller{}
	}
	if len(metadata.ValueFromIncomingContext(ctx, "grpcgateway-accept")) > 0 {
		return auth.Caller{}
	}
	// A name in a certificate may be any bytes; strings in the log are UTF-8.
	return auth.Caller{Name: strings.ToValidUTF8(caller.CommonName, "\uFFFD"), Revision: s.Revision()}
}

// permitRoot checks whether a request comes from a user who may do everything.
func (a *API) permitRoot(ctx context.Context) error {
	s := a.store.Auth()
	c, err := a.user(ctx, s)
	if err == nil {
		err = s.CheckRoot(c)
	}
	return toStatus(err)
}

// permitKnown checks whether a request comes from any user at all.
func (a *API) permitKnown(ctx context.Context) error {
	s := a.store.Auth()
	c, err := a.user(ctx, s)
	if err == nil {
		err = s.CheckKnown(c)
	}
	return toStatus(err)
}

// permitted reads for a request if its user may, and checks afterwards whether that still holds.
func (a *API) permitted(ctx context.Context, check func(*auth.State, auth.Caller) error, read func() error) error {
	s := a.store.Auth()
	c, err := a.user(ctx, s)
	if err != nil {
		return err
	}
	if err := check(s, c); err != nil {
		return err
	}
	err = read()
	now := a.store.Auth()
	if old := now.CheckCurrent(c); old != nil {
		return old
	}
	if !s.Enabled() { // it may be by now, which is no change of users and roles
		if denied := check(now, c); denied != nil {
			return denied
		}
	}
	return err
}
