package store

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/cofferkv/coffer/mvcc"
)

// Names, labels and buckets are etcd's.
var (
	clusterVersion = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "cluster", Name: "version",
		Help: "Which version is running. 1 for 'cluster_version' label with current cluster version.",
	}, []string{"cluster_version"})
	alarms = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "server", Name: "alarms",
		Help: "Active alarms, 1 for every member and type that has one.",
	}, []string{"server_id", "alarm_type"})
	authRevision = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "auth", Name: "revision",
		Help: "The current revision of users and roles.",
	})
	applySeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "server", Name: "apply_duration_seconds",
		Help:    "The latency distributions of applied requests, without the commit of the batch that they are part of.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"version", "op", "success"})
	rangeSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "server", Name: "range_duration_seconds",
		Help:    "The latency distributions of ranges outside the log.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"success"})
)

func init() {
	prometheus.MustRegister(clusterVersion, alarms, authRevision, applySeconds, rangeSeconds)
}

// Series that are used for every request are looked up once.
var (
	rangeOK     = rangeSeconds.WithLabelValues("true")
	rangeFailed = rangeSeconds.WithLabelValues("false")
	applied     = func() map[string][2]prometheus.Observer {
		m := make(map[string][2]prometheus.Observer)
		for _, op := range []string{"Put", "Txn", "DeleteRange", "Range", "Compaction", "LeaseGrant", "LeaseRevoke",
			"LeaseCheckpoint", "Alarm", "ClusterMemberAttrSet", "ClusterVersionSet", "DowngradeInfoSet", "Authenticate", "AuthEnable", "AuthDisable",
			"AuthUserAdd", "AuthUserDelete", "AuthUserChangePassword", "AuthUserGrantRole", "AuthUserRevokeRole", "AuthUserGet", "AuthUserList",
			"AuthRoleAdd", "AuthRoleDelete", "AuthRoleGrantPermission", "AuthRoleRevokePermission", "AuthRoleGet", "AuthRoleList", "unknown"} {
			for i := range 2 {
				s := m[op]
				s[i] = applySeconds.WithLabelValues("v3", op, strconv.FormatBool(i == 1))
				m[op] = s
			}
		}
		return m
	}()
)

func observeRange(start time.Time, err error) {
	o := rangeOK
	if err != nil {
		o = rangeFailed
	}
	o.Observe(time.Since(start).Seconds())
}

func observeApply(r *pb.InternalRaftRequest, took time.Duration, err error) {
	i := 0
	if err == nil || errors.Is(err, mvcc.ErrCompacted) {
		i = 1
	}
	applied[opName(r)][i].Observe(took.Seconds())
}

func opName(r *pb.InternalRaftRequest) string {
	switch {
	case r.Put != nil:
		return "Put"
	case r.Txn != nil:
		return "Txn"
	case r.DeleteRange != nil:
		return "DeleteRange"
	case r.Range != nil:
		return "Range"
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
	case r.ClusterMemberAttrSet != nil:
		return "ClusterMemberAttrSet"
	case r.ClusterVersionSet != nil:
		return "ClusterVersionSet"
	case r.DowngradeInfoSet != nil:
		return "DowngradeInfoSet"
	case r.Authenticate != nil:
		return "Authenticate"
	case r.AuthEnable != nil:
		return "AuthEnable"
	case r.AuthDisable != nil:
		return "AuthDisable"
	case r.AuthUserAdd != nil:
		return "AuthUserAdd"
	case r.AuthUserDelete != nil:
		return "AuthUserDelete"
	case r.AuthUserChangePassword != nil:
		return "AuthUserChangePassword"
	case r.AuthUserGrantRole != nil:
		return "AuthUserGrantRole"
	case r.AuthUserRevokeRole != nil:
		return "AuthUserRevokeRole"
	case r.AuthUserGet != nil:
		return "AuthUserGet"
	case r.AuthUserList != nil:
		return "AuthUserList"
	case r.AuthRoleAdd != nil:
		return "AuthRoleAdd"
	case r.AuthRoleDelete != nil:
		return "AuthRoleDelete"
	case r.AuthRoleGrantPermission != nil:
		return "AuthRoleGrantPermission"
	case r.AuthRoleRevokePermission != nil:
		return "AuthRoleRevokePermission"
	case r.AuthRoleGet != nil:
		return "AuthRoleGet"
	case r.AuthRoleList != nil:
		return "AuthRoleList"
	}
	return "unknown"
}

// report sets the gauges to what c says.
func (c *cluster) report() {
	clusterVersion.Reset()
	if c.version != "" {
		clusterVersion.WithLabelValues(version.Cluster(c.version)).Set(1)
	}
	alarms.Reset()
	for _, a := range c.alarms {
		alarms.WithLabelValues(strconv.FormatUint(a.MemberID, 16), a.Alarm.String()).Set(1)
	}
}
