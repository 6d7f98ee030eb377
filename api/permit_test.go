package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/identity"
)

func TestTheUserIsWhomTheTokenNamesOrElseTheCertificate(t *testing.T) {
	m := startGuarded(t, func(o *memberOptions) { o.api.ClientCertAuth = true })
	s := m.store.Auth()
	certificate := &identity.Caller{TLS: true, Verified: true, CommonName: "alice"}
	direct := withCaller(peerContext(ConnInfo{Caller: certificate}))
	with := func(ctx context.Context, pairs ...string) context.Context {
		return metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...))
	}
	root := m.tokenOfUser(t, "root")
	alice := auth.Caller{Name: "alice", Revision: s.Revision()}
	for _, c := range []struct {
		name string
		ctx  context.Context
		want auth.Caller
		err  error
	}{
		{"nothing", context.Background(), auth.Caller{}, nil},
		{"a certificate", direct, alice, nil},
		{"a certificate that nobody has verified", withCaller(peerContext(ConnInfo{Caller: &identity.Caller{TLS: true, CommonName: "alice"}})), auth.Caller{}, nil},
		{"a certificate without a name", withCaller(peerContext(ConnInfo{Caller: &identity.Caller{TLS: true, Verified: true}})), auth.Caller{Revision: s.Revision()}, nil},
		{"the certificate of a gateway elsewhere", with(direct, "grpcgateway-accept", "*/*"), auth.Caller{}, nil},
		{"the certificate of a client of the gateway", identity.NewContext(context.Background(), certificate), auth.Caller{}, nil},
		{"a token", with(context.Background(), rpctypes.TokenFieldNameGRPC, root), auth.Caller{Name: "root", Revision: s.Revision()}, nil},
		{"a token in HTTP's header", with(context.Background(), rpctypes.TokenFieldNameSwagger, "Bearer "+root), auth.Caller{Name: "root", Revision: s.Revision()}, nil},
		{"a token and a certificate", with(direct, rpctypes.TokenFieldNameGRPC, root), auth.Caller{Name: "root", Revision: s.Revision()}, nil},
		{"no token and a certificate", with(direct, rpctypes.TokenFieldNameGRPC, "x"), auth.Caller{}, auth.ErrInvalidToken},
	} {
		if got, err := m.api.user(c.ctx, s); got != c.want || err != c.err {
			t.Errorf("%s: got %v, %v, want %v, %v", c.name, got, err, c.want, c.err)
		}
	}
	// What is said while authentication is off counts as soon as it is on.
	if got, err := m.api.user(direct, auth.New()); err != nil || got != (auth.Caller{Name: "alice", Revision: 1}) {
		t.Errorf("a certificate while authentication is off: %v, %v", got, err)
	}
	m.api.o.ClientCertAuth = false
	if got, err := m.api.user(direct, s); err != nil || got.Known() {
		t.Errorf("a certificate that names no user: %v, %v", got, err)
	}
}

func TestTheGatewayTakesTokensAndNoCertificates(t *testing.T) {
	m := startGuarded(t, func(o *memberOptions) { o.api.ClientCertAuth = true })
	root := m.tokenOfUser(t, "root")
	handler := m.api.HTTPHandler()
	call := func(caller *identity.Caller, path, token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"key":"YQ=="}`))
		if path == "/version" {
			r.Method = http.MethodGet
		}
		r = r.WithContext(identity.NewContext(r.Context(), caller))
		if token != "" {
			r.Header.Set("Authorization", token)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	named := &identity.Caller{TLS: true, Verified: true, CommonName: "alice"}
	nameless := &identity.Caller{TLS: true, Verified: true}
	for _, c := range []struct {
		caller      *identity.Caller
		path, token string
		code        int
		body        string
	}{
		{named, "/v3/kv/range", "", http.StatusBadRequest, commonNameIgnored},
		{named, "/v3/kv/range", root, http.StatusBadRequest, commonNameIgnored},
		{named, "/version", "", http.StatusOK, "etcdserver"},
		{nameless, "/v3/kv/range", "", http.StatusBadRequest, "user name is empty"},
		{nameless, "/v3/kv/range", root, http.StatusOK, "revision"},
		{nameless, "/v3/kv/range", "Bearer " + root, http.StatusOK, "revision"},
		{nameless, "/v3/kv/range", "nonsense", http.StatusUnauthorized, "invalid auth token"},
	} {
		if w := call(c.caller, c.path, c.token); w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s by %v: %d %s", c.path, c.caller, w.Code, w.Body)
		}
	}
	must(t, errOf(pb.NewAuthClient(m.conn).AuthDisable(withToken(soon(t), root), &pb.AuthDisableRequest{})))
	if w := call(named, "/v3/kv/range", ""); w.Code != http.StatusOK {
		t.Errorf("while authentication is off: %d %s", w.Code, w.Body)
	}
}

// Enabling authentication does not raise the revision of users and roles.
func TestWhatIsReadWhileAuthenticationIsEnabledIsForThoseWhoMayReadIt(t *testing.T) {
	m := startGuarded(t)
	ac := pb.NewAuthClient(m.conn)
	enable := func() error { return errOf(ac.AuthEnable(soon(t), &pb.AuthEnableRequest{})) }
	nobody := metadata.NewIncomingContext(context.Background(), nil)
	check := func(s *auth.State, c auth.Caller) error { return s.CheckRead(c, []byte("a"), nil) }
	must(t, errOf(ac.AuthDisable(withToken(soon(t), m.tokenOfUser(t, "root")), &pb.AuthDisableRequest{})))
	before := m.store.Auth()
	if err := m.api.permitted(nobody, check, enable); err != auth.ErrUserEmpty {
		t.Errorf("nobody: got %v", err)
	}
	if err := m.store.Auth().CheckSame(before); err != auth.ErrOldRevision {
		t.Errorf("not the same: got %v", err)
	}
	must(t, m.store.Auth().CheckSame(m.store.Auth()))

	must(t, errOf(ac.AuthDisable(withToken(soon(t), m.tokenOfUser(t, "root")), &pb.AuthDisableRequest{})))
	m.api.o.ClientCertAuth = true
	alice := withCaller(peerContext(ConnInfo{Caller: &identity.Caller{TLS: true, Verified: true, CommonName: "alice"}}))
	must(t, m.api.permitted(alice, check, enable))
}

// As for those who send no token: even what any user may do is not for them.
func TestACertificateWithoutANameIsNoUser(t *testing.T) {
	m := startGuarded(t, func(o *memberOptions) { o.api.ClientCertAuth = true })
	nameless := withCaller(peerContext(ConnInfo{Caller: &identity.Caller{TLS: true, Verified: true}}))
	if err := m.api.permitKnown(nameless); err == nil || err.Error() != rpctypes.ErrGRPCUserEmpty.Error() {
		t.Errorf("got %v", err)
	}
	must(t, m.api.permitKnown(withCaller(peerContext(ConnInfo{Caller: &identity.Caller{TLS: true, Verified: true, CommonName: "alice"}}))))
}

// What a check adds to a request, besides what is applied.
func BenchmarkPermitted(b *testing.B) {
	m := startGuarded(b)
	off := startMember(b)
	nothing := func() error { return nil }
	read := func(s *auth.State, c auth.Caller) error { return s.CheckRead(c, []byte("a"), nil) }
	for _, c := range []struct {
		name string
		m    *member
		md   metadata.MD
	}{
		{"off", off, metadata.Pairs("client-api-version", "3.7")},
		{"on", m, metadata.Pairs("client-api-version", "3.7", rpctypes.TokenFieldNameGRPC, m.tokenOfUser(b, "alice"))},
	} {
		ctx := metadata.NewIncomingContext(context.Background(), c.md)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.m.api.permitted(ctx, read, nothing); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
