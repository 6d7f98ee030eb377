package lease

import "github.com/prometheus/client_golang/prometheus"

// Names, labels and buckets are etcd's.
var (
	granted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "etcd_debugging_lease_granted_total",
		Help: "The total number of granted leases.",
	})
	revoked = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "etcd_debugging_lease_revoked_total",
		Help: "The total number of revoked leases.",
	})
	renewed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "etcd_debugging_lease_renewed_total",
		Help: "The number of renewed leases seen by the leader.",
	})
	grantedTTL = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "etcd_debugging_lease_ttl_total",
		Help:    "Bucketed histogram of lease TTLs.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 24), // one second to three months
	})
)

func init() {
	prometheus.MustRegister(granted, revoked, renewed, grantedTTL)
}
