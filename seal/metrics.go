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

func init() {
	prometheus.MustRegister(sealedBytes, openedBytes, sealedCount, openedCount, openFailures, resealedBytes)
	for kind := range kindNames {
		openFailures.WithLabelValues(kind.String()) // so that 0 is seen before the first failure
	}
}

func counter(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"kind"})
}
