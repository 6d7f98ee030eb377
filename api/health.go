package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A probe is one check of /livez or /readyz.
type probe struct {
	name string
	run  func(context.Context) error
}

func (a *API) liveProbes() []probe {
	return []probe{{"serializable_read", a.probeRead(true)}}
}

func (a *API) readyProbes() []probe {
	return []probe{
		{"data_corruption", a.probeCorruption},
		{"serializable_read", a.probeRead(true)},
		{"linearizable_read", a.probeRead(false)},
		{"non_learner", a.probeVoter},
	}
}

// probeRead reads a key that need not exist. A linearizable read shows that there is a quorum.
func (a *API) probeRead(serializable bool) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, a.node.RequestTimeout())
		defer cancel()
		if !serializable {
			if err := a.node.ReadIndex(ctx); err != nil {
				return err
			}
		}
		_, err := a.store.Range(ctx, &pb.RangeRequest{Key: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable})
		return err
	}
}

func (a *API) probeCorruption(context.Context) error {
	if len(a.store.Alarms(pb.AlarmType_CORRUPT)) > 0 {
		return errors.New("alarm activated: CORRUPT")
	}
	return nil
}

func (a *API) probeVoter(context.Context) error {
	if a.node.Status().IsLearner {
		return errors.New("not supported for learner")
	}
	return nil
}

// handleProbes serves a set of checks under a path, each of them also under a path of its own below that. An answer of
// 200 says "ok", or with ?verbose each check's result; 503 always says which checks failed. ?exclude=NAME leaves checks
// out.
func (a *API) handleProbes(mux *http.ServeMux, kind string, probes []probe) {
	path := "/" + kind
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		var left []probe
		for _, p := range probes {
			if !slices.Contains(excluded, p.name) {
				left = append(left, p)
			}
		}
		a.serveProbes(w, r, kind, left)
		a.warnUnknownProbes(probes, excluded)
	})
	for _, p := range probes {
		mux.HandleFunc(path+"/"+p.name, func(w http.ResponseWriter, r *http.Request) {
			a.serveProbes(w, r, kind, []probe{p})
		})
	}
}

func (a *API) warnUnknownProbes(probes []probe, excluded []string) {
	for _, name := range excluded {
		known := func(p probe) bool { return p.name == name }
		if name != "" && !slices.ContainsFunc(probes, known) {
			a.log.Warn("some health checks cannot be excluded", zap.String("missing-health-checks", fmt.Sprintf("%q", name)))
		}
	}
}

func (a *API) serveProbes(w http.ResponseWriter, r *http.Request, kind string, probes []probe) {
	if !allowGet(w, r) {
		return
	}
	var details strings.Builder
	failed := false
	for _, p := range probes {
		status, value := "success", 1.0
		if err := p.run(r.Context()); err != nil {
			status, value = "error", 0
			failed = true
			fmt.Fprintf(&details, "[-]%s failed: %v\n", p.name, err)
		} else {
			fmt.Fprintf(&details, "[+]%s ok\n", p.name)
		}
		healthCheck.WithLabelValues(kind, p.name).Set(value)
		healthChecks.WithLabelValues(kind, p.name, status).Inc()
	}
	if failed {
		http.Error(w, details.String(), http.StatusServiceUnavailable)
		a.log.Error("Health check error", zap.String("path", r.URL.Path), zap.String("reason", details.String()),
			zap.Int("status-code", http.StatusServiceUnavailable))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, details.String())
	}
	fmt.Fprint(w, "ok\n")
}

// healthAnswer is the answer of /health.
type healthAnswer struct {
	Health string `json:"health"` // "true" or "false"
	Reason string `json:"reason"`
}

// serveHealth serves /health: alarms (?exclude=NAME overlooks one), a leader, a read. With ?serializable=true it asks
// about this member alone.
func (a *API) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !allowGet(w, r) {
		return
	}
	q := r.URL.Query()
	h := healthAnswer{Health: "true"}
	if reason := a.unhealthy(r.Context(), q["exclude"], q.Get("serializable") == "true"); reason != "" {
		h = healthAnswer{Health: "false", Reason: reason}
	}
	body, err := json.Marshal(h)
	if err != nil {
		panic(fmt.Sprintf("api: encoding two strings as JSON: %v", err))
	}
	if h.Health != "true" {
		healthFailures.Inc()
		a.log.Warn("/health error", zap.String("reason", h.Reason), zap.Int("status-code", http.StatusServiceUnavailable))
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	healthSuccess.Inc()
	w.Write(body)
}

// unhealthy returns why the member is not healthy, or "".
func (a *API) unhealthy(ctx context.Context, excludedAlarms []string, serializable bool) string {
	for _, alarm := range a.store.Alarms(pb.AlarmType_NONE) {
		if slices.Contains(excludedAlarms, alarm.Alarm.String()) {
			continue
		}
		switch alarm.Alarm {
		case pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT:
			return "ALARM " + alarm.Alarm.String()
		default:
			return "ALARM UNKNOWN"
		}
	}
	if !serializable && !a.hasLeader() {
		return "RAFT NO LEADER"
	}
	if err := a.probeRead(serializable)(ctx); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

func allowGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
