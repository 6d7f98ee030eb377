package server

import (
	"os"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/version"
	"golang.org/x/sys/unix"

	"github.com/cofferkv/coffer/config"
)

// Under etcd's names, for dashboards that show which version runs with which features.
var (
	serverVersion = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "version",
		Help: "Which version is running. 1 for 'server_version' label with current version.",
	}, []string{"server_version"})
	goVersion = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "go_version",
		Help: "Which Go version server is running with. 1 for 'server_go_version' label with current version.",
	}, []string{"server_go_version"})
	featureEnabled = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "feature_enabled",
		Help: "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
	}, []string{"name", "stage"})
	filesUsed = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "os", Subsystem: "fd", Name: "used", Help: "The number of used file descriptors.",
	}, func() float64 {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0
		}
		return float64(len(names))
	})
	filesLimit = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "os", Subsystem: "fd", Name: "limit", Help: "The file descriptor limit.",
	}, func() float64 {
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
			return 0
		}
		return float64(limit.Cur)
	})
)

func init() {
	prometheus.MustRegister(serverVersion, goVersion, featureEnabled, filesUsed, filesLimit)
	serverVersion.WithLabelValues(version.Version).Set(1)
	goVersion.WithLabelValues(runtime.Version()).Set(1)
}

func reportFeatures(f config.Features) {
	for _, gate := range f.All() {
		on := 0.0
		if gate.Enabled {
			on = 1
		}
		featureEnabled.WithLabelValues(gate.Name, gate.Stage).Set(on)
	}
}
