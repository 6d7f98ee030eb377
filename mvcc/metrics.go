package mvcc

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The names are etcd's where the meaning is the same.
var (
	rangesTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "range_total",
		Help: "Total number of ranges seen by this member.",
	})
	putsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "put_total",
		Help: "Total number of puts seen by this member.",
	})
	deletesTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "delete_total",
		Help: "Total number of deletes seen by this member.",
	})
	txnsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "txn_total",
		Help: "Total number of transactions with more than one change seen by this member.",
	})
	putBytes = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "total_put_size_in_bytes",
		Help: "Total size of the messages put by this member.",
	})
	keysTotal = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "keys_total",
		Help: "Number of keys.",
	})
	messageCacheHits = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "coffer", Subsystem: "mvcc", Name: "message_cache_hits_total",
		Help: "Total number of reads of one version that needed nothing of the storage engine.",
	})
	messageCacheMisses = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "coffer", Subsystem: "mvcc", Name: "message_cache_misses_total",
		Help: "Total number of reads of one version that were answered by the storage engine.",
	})
	removalTotalMs = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "db_compaction_total_duration_milliseconds",
		Help:    "How long the removal of compacted versions took.",
		Buckets: prometheus.ExponentialBuckets(100, 2, 14),
	})
	removalPauseMs = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "db_compaction_pause_duration_milliseconds",
		Help:    "How long one step of the removal of compacted versions took. It pauses no request.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 13),
	})
	removalLast = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "db_compaction_last",
		Help: "Unix time of the last removal of compacted versions; 0 after a start.",
	})
	removedTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "db_compaction_keys_total",
		Help: "Total number of compacted versions removed.",
	})
	hashSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "hash_duration_seconds",
		Help:    "How long a hash of the whole store took.",
		Buckets: prometheus.ExponentialBuckets(.01, 2, 15),
	})
	hashRevSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "etcd", Subsystem: "mvcc", Name: "hash_rev_duration_seconds",
		Help:    "How long a hash up to a revision took.",
		Buckets: prometheus.ExponentialBuckets(.01, 2, 15),
	})
	scanSeconds = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "coffer", Subsystem: "mvcc", Name: "index_build_seconds",
		Help: "How long the index was built at the start.",
	})

	reported atomic.Pointer[DB] // the store that the gauges below speak of
)

func reportedGauge(namespace, name, help string, f func(*DB) int64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: "mvcc", Name: name, Help: help,
	}, func() float64 {
		if db := reported.Load(); db != nil {
			return float64(f(db))
		}
		return 0
	})
}

func init() {
	prometheus.MustRegister(rangesTotal, putsTotal, deletesTotal, txnsTotal, putBytes, keysTotal,
		messageCacheHits, messageCacheMisses, removalTotalMs, removalPauseMs, removalLast, removedTotal, hashSeconds, hashRevSeconds, scanSeconds,
		reportedGauge("etcd", "db_total_size_in_bytes", "Size of the store on disk and in memtables.",
			func(db *DB) int64 { n, _ := db.Size(); return n }),
		reportedGauge("etcd", "db_total_size_in_use_in_bytes", "Size of the store without files that wait for removal.",
			func(db *DB) int64 { _, n := db.Size(); return n }),
		reportedGauge("etcd_debugging", "current_revision", "The current revision of the store.",
			func(db *DB) int64 { return db.view.Load().revision }),
		reportedGauge("etcd_debugging", "compact_revision", "The revision of the last compaction of the store.",
			func(db *DB) int64 { return db.view.Load().compact }),
		reportedGauge("coffer", "block_cache_bytes", "Memory taken by the storage engine's block cache.",
			func(db *DB) int64 { return db.pebble.Metrics().BlockCache.Size }),
	)
}

func reportMetrics(db *DB) { reported.Store(db) }

func unreportMetrics(db *DB) { reported.CompareAndSwap(db, nil) }

func (db *DB) countCommitted(b *Batch) {
	puts, deletes, txns, bytes := 0, 0, 0, 0
	for _, evs := range b.events {
		if len(evs.Events) > 1 {
			txns++
		}
		for i := range evs.Events {
			if evs.Events[i].Type == mvccpb.DELETE {
				deletes++
			} else {
				puts++
				bytes += len(evs.Events[i].Raw)
			}
		}
	}
	putsTotal.Add(float64(puts))
	deletesTotal.Add(float64(deletes))
	txnsTotal.Add(float64(txns))
	putBytes.Add(float64(bytes))
	keysTotal.Set(float64(b.tree.len()))
}
