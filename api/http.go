package api

import (
	"encoding/json"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/identity"
)

// HTTPHandler serves everything that is not gRPC on a client URL: the JSON gateway under /v3/, /health, /livez, /readyz,
// /version, /metrics and /debug/vars. A listener that ends TLS itself, so that requests come without a TLS state, must
// put the caller into the context of its connections.
func (a *API) HTTPHandler() http.Handler {
	mux := http.NewServeMux()
	a.handleMetrics(mux)
	mux.HandleFunc("/version", a.serveVersion)
	mux.HandleFunc("/debug/vars", serveVars)
	if !a.o.DisableGateway {
		mux.Handle("/v3/", a.gateway())
	}
	return a.guard(mux)
}

// MetricsHandler serves a metrics URL: /metrics and the health endpoints.
func (a *API) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	a.handleMetrics(mux)
	return mux
}

func (a *API) handleMetrics(mux *http.ServeMux) {
	mux.Handle("/metrics", promhttp.Handler())
	mux.HandleFunc("/health", a.serveHealth)
	a.handleProbes(mux, "livez", a.liveProbes())
	a.handleProbes(mux, "readyz", a.readyProbes())
}

// guard is what every HTTP request passes first: it finds out the caller, refuses host names that are not ours, and
// answers the questions browsers ask before they let a page use the gateway.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = withHTTPCaller(r)
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v3beta/"); ok {
			r.URL.Path = "/v3/" + rest
		}
		if host := hostname(r.Host); !identity.FromContext(r.Context()).TLS && !listed(a.o.HostWhitelist, host) {
			a.log.Warn("rejecting HTTP request to prevent DNS rebinding attacks", zap.String("host", host))
			http.Error(w, fmt.Sprintf(unknownHost, host), http.StatusMisdirectedRequest)
			return
		}
		if caller := identity.FromContext(r.Context()); a.o.ClientCertAuth && !a.o.DisableGateway && caller.Verified && caller.CommonName != "" &&
			strings.HasPrefix(r.URL.Path, "/v3/") && a.store.Auth().Enabled() {
			http.Error(w, commonNameIgnored, http.StatusBadRequest)
			return
		}
		origin := r.Header.Get("Origin")
		if listed(a.o.CORS, "*") {
			origin = "*"
		}
		if listed(a.o.CORS, origin) {
			h := w.Header()
			h.Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			h.Add("Access-Control-Allow-Origin", origin)
			h.Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// unknownHost is the answer to a request without TLS for a host name that is not on the list. A web page whose name its
// owner has pointed at this member's address (CVE-2018-5702) sends such requests from its readers' browsers.
const unknownHost = `
This member received your request, but does not know itself by the name in the Host header.

Use one of these remedies:
- Use TLS: any HTTPS request is accepted.
- Add the host name to the list of those this member answers to: --host-whitelist %q
`

// commonNameIgnored is etcd's answer to a client of the gateway whose certificate names a user: there only tokens count.
const commonNameIgnored = "CommonName of client sending a request against gateway will be ignored and not used as expected"

// withHTTPCaller puts the caller into the request's context, unless the listener has done so.
func withHTTPCaller(r *http.Request) *http.Request {
	caller := identity.FromContext(r.Context())
	switch {
	case r.TLS != nil:
		caller = identity.FromTLS(r.TLS, nil)
		caller.RemoteAddr = r.RemoteAddr
	case caller.RemoteAddr == "" && !caller.TLS:
		caller = &identity.Caller{RemoteAddr: r.RemoteAddr}
	default:
		return r
	}
	return r.WithContext(identity.NewContext(r.Context(), caller))
}

// hostname is the host without its port.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// listed reports whether a list of names, of which an empty one and "*" allow all, allows name.
func listed(list []string, name string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, name)
}

func (a *API) serveVersion(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	v := version.Versions{Server: version.Version, Cluster: "not_decided", Storage: "unknown"}
	if cv := a.store.ClusterVersion(); cv != "" {
		v.Cluster = cv
		v.Storage = a.storageVersion()
	}
	body, err := json.Marshal(&v)
	if err != nil {
		panic(fmt.Sprintf("api: encoding versions as JSON: %v", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// serveVars serves the process's exported variables in etcd's format.
func serveVars(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	separator := "{\n"
	expvar.Do(func(kv expvar.KeyValue) {
		fmt.Fprintf(w, "%s%q: %s", separator, kv.Key, kv.Value)
		separator = ",\n"
	})
	fmt.Fprint(w, "\n}\n")
}
