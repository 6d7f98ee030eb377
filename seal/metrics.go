package seal

import "github.com/prometheus/client_golang/prometheus"

var (
	sealedBytes = counter("coffer_seal_sealed_bytes_total", "Bytes of plaintext sealed, by kind of file.")
	openedBytes = counter("coffer_seal_opened_bytes_total", "Bytes of plaintext opened, by kind of file.")
	sealedCount = counter("coffer_seal_sealed_frames_total", "Frames sealed, by kind of file.")
	openedCount = counter("coffer_seal_opened_frames_total", "Frames opened, by kind of file.")

	openFailures = counter("coffer_seal_open_failures_total", "Headers and frames found altered or damaged, by kind of file.")

	resealedBytes = counter("coffer_seal_resealed_bytes_total", "Bytes of sealed files rewritten under the active key, by kind of file.")
)

// kindMetrics are the counters of one kind, looked up once.
type kindMetrics struct {
	sealedBytes, sealedFrames, openedBytes, openedFrames, openFailures, resealedBytes prometheus.Counter
}

var metricsOf [256]kindMetrics

func init() {
	prometheus.MustRegister(sealedBytes, openedBytes, sealedCount, openedCount, openFailures, resealedBytes)
	for kind, name := range kindNames {
		metricsOf[kind] = kindMetrics{
			sealedBytes:   sealedBytes.WithLabelValues(name),
			sealedFrames:  sealedCount.WithLabelValues(name),
			openedBytes:   openedBytes.WithLabelValues(name),
			openedFrames:  openedCount.WithLabelValues(name),
			openFailures:  openFailures.WithLabelValues(name),
			resealedBytes: resealedBytes.WithLabelValues(name),
		}
	}
}

func counter(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"kind"})
}

func (k Kind) countSealed(frames, bytes int) {
	metricsOf[k].sealedFrames.Add(float64(frames))
	metricsOf[k].sealedBytes.Add(float64(bytes))
}

func (k Kind) countOpened(frames, bytes int) {
	metricsOf[k].openedFrames.Add(float64(frames))
	metricsOf[k].openedBytes.Add(float64(bytes))
}
