package raftnode

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Metrics under etcd's names mean what they mean there.
var (
	hasLeader = gauge("etcd", "server", "has_leader",
		"Whether or not a leader exists. 1 is existence, 0 is not.")
	isLeader = gauge("etcd", "server", "is_leader",
		"Whether or not this member is a leader. 1 if is, 0 otherwise.")
	isLearner = gauge("etcd", "server", "is_learner",
		"Whether or not this member is a learner. 1 if is, 0 otherwise.")
	leaderChanges = counter("etcd", "server", "leader_changes_seen_total",
		"The number of leader changes seen.")
	learnerPromoteFailures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "learner_promote_failures",
		Help: "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
	}, []string{"Reason"})
	learnerPromoteSuccesses = counter("etcd", "server", "learner_promote_successes",
		"The total number of successful learner promotions while this member is leader.")
	proposalsCommitted = gauge("etcd", "server", "proposals_committed_total",
		"The total number of consensus proposals committed.")
	proposalsApplied = gauge("etcd", "server", "proposals_applied_total",
		"The total number of consensus proposals applied.")
	proposalsPending = gauge("etcd", "server", "proposals_pending",
		"The current number of pending proposals to commit.")
	proposalsFailed = counter("etcd", "server", "proposals_failed_total",
		"The total number of failed proposals seen.")
	slowApplies = counter("etcd", "server", "slow_apply_total",
		"The total number of slow apply requests (likely overloaded from slow disk).")
	slowReadIndexes = counter("etcd", "server", "slow_read_indexes_total",
		"The total number of pending read indexes not in sync with leader's or timed out read index requests.")
	readIndexesFailed = counter("etcd", "server", "read_indexes_failed_total",
		"The total number of failed read indexes seen.")
	leasesExpired = counter("etcd_debugging", "server", "lease_expired_total",
		"The total number of expired leases.")
	serverID = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "id",
		Help: "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
	}, []string{"server_id"})
	quotaBytes = gauge("etcd", "server", "quota_backend_bytes",
		"Current backend storage quota size in bytes.")
	requestSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "server", Name: "request_duration_seconds",
		Help:    "Response latency distribution in seconds for each type.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	}, []string{"type", "success"})

	batchRequests = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "coffer", Subsystem: "raft", Name: "batch_requests",
		Help:    "Requests that share one log entry.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11),
	})
	reserveBytes = gauge("coffer", "disk", "reserve_bytes",
		"Size of the file that is given up when the disk is almost full; 0 after that.")
	freeBytes = gauge("coffer", "disk", "free_bytes",
		"Free space of the file system that holds the data directory, as last seen.")
)

func gauge(namespace, subsystem, name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func counter(namespace, subsystem, name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func init() {
	prometheus.MustRegister(hasLeader, isLeader, isLearner, leaderChanges, learnerPromoteFailures, learnerPromoteSuccesses,
		proposalsCommitted, proposalsApplied, proposalsPending, proposalsFailed, slowApplies, slowReadIndexes,
		readIndexesFailed, leasesExpired, serverID, quotaBytes, requestSeconds, batchRequests, reserveBytes, freeBytes)
}

func setBool(g prometheus.Gauge, v bool) {
	if v {
		g.Set(1)
	} else {
		g.Set(0)
	}
}

// requestTypes gives every kind of request its name in request_duration_seconds
// and its two series, looked up once.
var requestTypes = func() map[string][2]prometheus.Observer {
	m := map[string][2]prometheus.Observer{}
	for _, t := range []string{"Put", "DeleteRange", "Txn", "Compaction", "LeaseGrant", "LeaseRevoke", "LeaseCheckpoint",
		"Alarm", "ClusterVersionSet", "ClusterMemberAttrSet", "DowngradeInfoSet", "Unknown"} {
		m[t] = [2]prometheus.Observer{requestSeconds.WithLabelValues(t, "false"), requestSeconds.WithLabelValues(t, "true")}
	}
	return m
}()

func observeRequest(r *pb.InternalRaftRequest, success bool, took time.Duration) {
	i := 0
	if success {
		i = 1
	}
	requestTypes[requestType(r)][i].Observe(took.Seconds())
}

func requestType(r *pb.InternalRaftRequest) string {
	switch {
	case r.Put != nil:
		return "Put"
	case r.DeleteRange != nil:
		return "DeleteRange"
	case r.Txn != nil:
		return "Txn"
	case r.Compaction != nil:
		return "Compaction"
	case r.LeaseGrant != nil:
		return "LeaseGrant"
	case r.LeaseRevoke != nil:
		return "LeaseRevoke"
	case r.LeaseCheckpoint != nil:
		return "LeaseCheckpoint"
	case r.Alarm != nil:
		return "Alarm"
	case r.ClusterVersionSet != nil:
		return "ClusterVersionSet"
	case r.ClusterMemberAttrSet != nil:
		return "ClusterMemberAttrSet"
	case r.DowngradeInfoSet != nil:
		return "DowngradeInfoSet"
	}
	return "Unknown"
}

// RequestSeconds returns the series of request_duration_seconds for a kind of
// request that does not go through the log, and so is not timed by Propose.
func RequestSeconds(kind string) (ok, failed prometheus.Observer) {
	return requestSeconds.WithLabelValues(kind, "true"), requestSeconds.WithLabelValues(kind, "false")
}
