package api

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/cofferkv/coffer/raftnode"
)

// Metrics under etcd's names mean what they mean there, so that dashboards and alerts made for etcd go on working.
var (
	sentBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "network", Name: "client_grpc_sent_bytes_total",
		Help: "The total number of bytes sent to grpc clients.",
	})
	receivedBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "network", Name: "client_grpc_received_bytes_total",
		Help: "The total number of bytes received from grpc clients.",
	})
	streamFailures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "network", Name: "server_stream_failures_total",
		Help: "The total number of stream failures from the local server.",
	}, []string{"Type", "API"})
	clientRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "client_requests_total",
		Help: "The total number of client requests per client version.",
	}, []string{"type", "client_api_version"})
	watchSendSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "etcd_debugging", Subsystem: "server", Name: "watch_send_loop_watch_stream_duration_seconds",
		Help:    "The total duration in seconds of running through the send loop watch stream response all events.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
	healthSuccess = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "health_success",
		Help: "The total number of successful health checks",
	})
	healthFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "health_failures",
		Help: "The total number of failed health checks",
	})
	healthCheck = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "healthcheck",
		Help: "The result of each kind of healthcheck.",
	}, []string{"type", "name"})
	healthChecks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "healthchecks_total",
		Help: "The total number of each kind of healthcheck.",
	}, []string{"type", "name", "status"})

	rpcStarted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grpc_server_started_total",
		Help: "Total number of RPCs started on the server.",
	}, rpcLabels)
	rpcHandled = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grpc_server_handled_total",
		Help: "Total number of RPCs completed on the server, regardless of success or failure.",
	}, append(rpcLabels[:len(rpcLabels):len(rpcLabels)], "grpc_code"))
	rpcReceived = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grpc_server_msg_received_total",
		Help: "Total number of RPC stream messages received on the server.",
	}, rpcLabels)
	rpcSent = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grpc_server_msg_sent_total",
		Help: "Total number of gRPC stream messages sent by the server.",
	}, rpcLabels)
	// rpcSeconds is observed only with extensive metrics.
	rpcSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "grpc_server_handling_seconds",
		Help:    "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
		Buckets: prometheus.DefBuckets,
	}, rpcLabels)

	rpcLabels = []string{"grpc_type", "grpc_service", "grpc_method"}
)

func init() {
	prometheus.MustRegister(sentBytes, receivedBytes, streamFailures, clientRequests, watchSendSeconds,
		healthSuccess, healthFailures, healthCheck, healthChecks,
		rpcStarted, rpcHandled, rpcReceived, rpcSent, rpcSeconds)
}

// readTimer is the time that one kind of read takes. (raftnode times what goes through the log.)
type readTimer struct{ ok, failed prometheus.Observer }

var (
	rangeSeconds   = newReadTimer("Range")
	readTxnSeconds = newReadTimer("ReadonlyTxn")
)

func newReadTimer(kind string) readTimer {
	ok, failed := raftnode.RequestSeconds(kind)
	return readTimer{ok, failed}
}

func (t readTimer) observe(start time.Time, err error) {
	o := t.ok
	if err != nil {
		o = t.failed
	}
	o.Observe(time.Since(start).Seconds())
}

// clientVersions counts requests of one kind, "unary" or "stream", by the API version that the client says it speaks. What
// clients say is not to be trusted: beyond maxClientVersions different ones, and for long ones, it counts "unknown".
type clientVersions struct {
	kind  string
	known atomic.Pointer[map[string]prometheus.Counter] // replaced, never changed
	mu    sync.Mutex                                    // held to replace it
}

const (
	unknownVersion         = "unknown"
	maxClientVersions      = 64
	maxClientVersionLength = 32
)

func newClientVersions(kind string) *clientVersions {
	v := &clientVersions{kind: kind}
	v.known.Store(&map[string]prometheus.Counter{unknownVersion: clientRequests.WithLabelValues(kind, unknownVersion)})
	return v
}

func (v *clientVersions) count(version string) {
	known := *v.known.Load()
	c, ok := known[version]
	if !ok {
		c = v.add(version)
	}
	c.Inc()
}

func (v *clientVersions) add(version string) prometheus.Counter {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := *v.known.Load()
	if c, ok := known[version]; ok {
		return c
	}
	if len(known) >= maxClientVersions || len(version) > maxClientVersionLength {
		return known[unknownVersion]
	}
	more := maps.Clone(known)
	more[version] = clientRequests.WithLabelValues(v.kind, version)
	v.known.Store(&more)
	return more[version]
}

// methodMetrics are the counters of one RPC method, looked up once so that a request costs additions and no label
// hashing. The names and labels are those of go-grpc-middleware's Prometheus provider, which etcd uses.
type methodMetrics struct {
	started, received, sent prometheus.Counter
	handled                 [codes.Unauthenticated + 1]prometheus.Counter
	seconds                 prometheus.Observer // nil unless metrics are extensive
}

func newMethodMetrics(service, method, kind string, extensive bool) *methodMetrics {
	m := &methodMetrics{
		started:  rpcStarted.WithLabelValues(kind, service, method),
		received: rpcReceived.WithLabelValues(kind, service, method),
		sent:     rpcSent.WithLabelValues(kind, service, method),
	}
	for c := range m.handled {
		m.handled[c] = rpcHandled.WithLabelValues(kind, service, method, codes.Code(c).String())
	}
	if extensive {
		m.seconds = rpcSeconds.WithLabelValues(kind, service, method)
	}
	return m
}

// methodsOf returns the metrics of every method of the services, by full method name.
func methodsOf(extensive bool, services []service) map[string]*methodMetrics {
	all := make(map[string]*methodMetrics)
	for _, svc := range services {
		s := svc.desc
		for _, m := range s.Methods {
			all["/"+s.ServiceName+"/"+m.MethodName] = newMethodMetrics(s.ServiceName, m.MethodName, "unary", extensive)
		}
		for _, m := range s.Streams {
			kind := "server_stream"
			switch {
			case m.ClientStreams && m.ServerStreams:
				kind = "bidi_stream"
			case m.ClientStreams:
				kind = "client_stream"
			}
			all["/"+s.ServiceName+"/"+m.StreamName] = newMethodMetrics(s.ServiceName, m.StreamName, kind, extensive)
		}
	}
	return all
}
