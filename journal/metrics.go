package journal

import "github.com/prometheus/client_golang/prometheus"

var (
	syncSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "etcd_disk_wal_fsync_duration_seconds",
		Help:    "How long the fdatasync of a journal frame took, in seconds.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	})
	writtenBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "etcd_disk_wal_write_bytes_total",
		Help: "Bytes of journal frames written, padding and tags included.",
	})
	segmentCount = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "coffer_journal_segments",
		Help: "Journal segments that are needed: from the one with the oldest entry to the current one.",
	})
	usedBytes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "coffer_journal_used_bytes",
		Help: "Bytes of headers and frames in the segments that are needed.",
	})
	segmentWait = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coffer_journal_segment_wait_seconds",
		Help:    "How long an append waited for the next segment, which is prepared in the background, in seconds.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
	})
	tornTails = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "coffer_journal_torn_tails_total",
		Help: "Journals that were opened with a last frame that a crash had torn.",
	})
)

func init() {
	prometheus.MustRegister(syncSeconds, writtenBytes, segmentCount, usedBytes, segmentWait, tornTails)
}
