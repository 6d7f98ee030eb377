package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestHealthEndpointsOfAHealthyMember(t *testing.T) {
	m := startMember(t)
	m.awaitClusterVersion(t)
	for _, c := range []struct {
		path   string
		status int
		want   []string // the body, or lines of it in any order
	}{
		{"/health", 200, []string{`{"health":"true","reason":""}`}},
		{"/health?serializable=true", 200, []string{`{"health":"true","reason":""}`}},
		{"/livez", 200, []string{"ok"}},
		{"/livez?verbose", 200, []string{"[+]serializable_read ok", "ok"}},
		{"/livez/serializable_read", 200, []string{"ok"}},
		{"/readyz", 200, []string{"ok"}},
		{"/readyz?verbose", 200, []string{"[+]data_corruption ok", "[+]serializable_read ok", "[+]linearizable_read ok", "[+]non_learner ok", "ok"}},
		{"/readyz?verbose&exclude=linearizable_read&exclude=nonsense", 200, []string{"[+]data_corruption ok", "[+]serializable_read ok", "[+]non_learner ok", "ok"}},
		{"/readyz/linearizable_read?verbose", 200, []string{"[+]linearizable_read ok", "ok"}},
		{"/readyz/nonsense", 404, nil},
		{"/version", 200, []string{`{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`}},
		{"/nonsense", 404, nil},
	} {
		status, body := m.get(t, c.path)
		if status != c.status {
			t.Errorf("%s: status %d: %s", c.path, status, body)
			continue
		}
		if c.want != nil && strings.TrimSpace(body) != strings.Join(c.want, "\n") {
			t.Errorf("%s: got %q, want %q", c.path, body, c.want)
		}
	}
	if status, body := m.get(t, "/metrics"); status != 200 || !strings.Contains(body, "grpc_server_started_total") {
		t.Errorf("/metrics: status %d", status)
	}
	_, vars := m.get(t, "/debug/vars")
	if !json.Valid([]byte(vars)) {
		t.Errorf("/debug/vars is no JSON: %s", vars)
	}
	resp, err := healthpb.NewHealthClient(m.conn).Check(soon(t), &healthpb.HealthCheckRequest{})
	must(t, err)
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %v", resp.Status)
	}
}

func TestAlarmsMakeAMemberUnhealthy(t *testing.T) {
	m := startMember(t)
	raise := func(a pb.AlarmType) {
		t.Helper()
		_, err := m.maintenance().Alarm(soon(t), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: m.id, Alarm: a})
		must(t, err)
	}
	expect := func(path string, status int, want string) {
		t.Helper()
		got, body := m.get(t, path)
		if got != status || !strings.Contains(body, want) {
			t.Errorf("%s: status %d: %s", path, got, body)
		}
	}
	raise(pb.AlarmType_NOSPACE)
	expect("/health", 503, `{"health":"false","reason":"ALARM NOSPACE"}`)
	expect("/health?exclude=NOSPACE", 200, "true")
	expect("/readyz", 200, "ok")
	raise(pb.AlarmType_CORRUPT)
	expect("/health?exclude=NOSPACE", 503, "ALARM CORRUPT")
	expect("/readyz?exclude=linearizable_read", 503, "[-]data_corruption failed: alarm activated: CORRUPT")
	expect("/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT")
	expect("/livez", 200, "ok")
}

func TestProbesAreOnlyAskedByGet(t *testing.T) {
	m := startMember(t)
	for _, path := range []string{"/health", "/livez", "/readyz", "/readyz/serializable_read", "/version", "/debug/vars"} {
		resp, err := http.Post(m.httpURL+path, "text/plain", nil)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET" {
			t.Errorf("%s: status %d, allow %q", path, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

func TestPagesOfOtherOriginsAndUnknownHostNamesAreKeptOut(t *testing.T) {
	m := startMember(t, func(o *memberOptions) {
		o.api.CORS = []string{"https://console.example"}
		o.api.HostWhitelist = []string{"etcd.example", "127.0.0.1"}
	})
	do := func(method, host, origin string) *http.Response {
		t.Helper()
		r, err := http.NewRequest(method, m.httpURL+"/version", nil)
		must(t, err)
		r.Host = host
		r.Header.Set("Origin", origin)
		resp, err := http.DefaultClient.Do(r)
		must(t, err)
		resp.Body.Close()
		return resp
	}
	if r := do("GET", "etcd.example:2379", "https://console.example"); r.StatusCode != 200 || r.Header.Get("Access-Control-Allow-Origin") != "https://console.example" {
		t.Errorf("status %d, header %v", r.StatusCode, r.Header)
	}
	if r := do("GET", "127.0.0.1", "https://evil.example"); r.StatusCode != 200 || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("status %d, header %v", r.StatusCode, r.Header)
	}
	if r := do("OPTIONS", "etcd.example", "https://console.example"); r.StatusCode != 200 {
		t.Errorf("status %d", r.StatusCode)
	}
	if r := do("GET", "rebound.example", ""); r.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a name that is not on the list: status %d", r.StatusCode)
	}
}

func TestAMetricsListenerServesMetricsAndHealthOnly(t *testing.T) {
	m := startMember(t)
	srv := httptest.NewServer(m.api.MetricsHandler())
	defer srv.Close()
	for path, want := range map[string]int{"/metrics": 200, "/health": 200, "/readyz": 200, "/livez": 200, "/v3/kv/range": 404, "/version": 404} {
		resp, err := http.Get(srv.URL + path)
		must(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestWithoutTheGatewayTheRestIsServed(t *testing.T) {
	m := startMember(t, func(o *memberOptions) { o.api.DisableGateway = true })
	if status, _ := m.post(t, "/v3/kv/range", "{}"); status != 404 {
		t.Errorf("gateway: status %d", status)
	}
	if status, _ := m.get(t, "/health"); status != 200 {
		t.Errorf("health: status %d", status)
	}
}
