package watch

import "github.com/prometheus/client_golang/prometheus"

// Names and meanings are etcd's.
var (
	streamsTotal = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "etcd_debugging_mvcc_watch_stream_total",
		Help: "Total number of watch streams.",
	})
	watchersTotal = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "etcd_debugging_mvcc_watcher_total",
		Help: "Total number of watchers.",
	})
	slowWatchersTotal = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "etcd_debugging_mvcc_slow_watcher_total",
		Help: "Total number of unsynced slow watchers.",
	})
	eventsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "etcd_debugging_mvcc_events_total",
		Help: "Total number of events sent by this member.",
	})
	pendingEventsTotal = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "etcd_debugging_mvcc_pending_events_total",
		Help: "Total number of pending events to be sent.",
	})
)

func init() {
	prometheus.MustRegister(streamsTotal, watchersTotal, slowWatchersTotal, eventsTotal, pendingEventsTotal)
}
