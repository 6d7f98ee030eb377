package keyring

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics are read off the open keyrings when they are asked for: an age
// that is only set now and then would stand still in between.
var (
	keyAge = prometheus.NewDesc("coffer_keyring_key_age_seconds",
		"Seconds since a data key that the keyring holds was made.", []string{"key", "state"}, nil)
	generation = prometheus.NewDesc("coffer_keyring_generation",
		"How many times the keyring has been written.", []string{"member"}, nil)
)

func init() { prometheus.MustRegister(&open) }

var open collector

type collector struct {
	sync.Mutex
	keyrings []*Keyring
}

func track(kr *Keyring) {
	open.Lock()
	defer open.Unlock()
	open.keyrings = append(open.keyrings, kr)
}

func untrack(kr *Keyring) {
	open.Lock()
	defer open.Unlock()
	for i, k := range open.keyrings {
		if k == kr {
			open.keyrings = append(open.keyrings[:i:i], open.keyrings[i+1:]...)
			return
		}
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- keyAge
	ch <- generation
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.Lock()
	keyrings := c.keyrings
	c.Unlock()
	seen := make(map[string]bool) // the same keyring may be open twice, in tests
	for _, kr := range keyrings {
		member := kr.Member().String()
		if seen[member] {
			continue
		}
		seen[member] = true
		ch <- prometheus.MustNewConstMetric(generation, prometheus.GaugeValue, float64(kr.Generation()), member)
		for _, k := range kr.Keys() {
			if k.State != Removed {
				ch <- prometheus.MustNewConstMetric(keyAge, prometheus.GaugeValue, time.Since(k.Created).Seconds(), k.ID.String(), k.State.String())
			}
		}
	}
}
