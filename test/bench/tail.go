package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tail measures the slowest requests at a fixed load, half of what etcd can do at most: requests begin when they are
// due, whether or not those before have ended, and their latency counts from then.
func tail(args []string) error {
	ctx := context.Background()
	s := newServers("tail")
	clean, err := s.parse(ctx, args)
	if err != nil {
		return err
	}
	defer clean()
	if s.etcd == "none" {
		return fmt.Errorf("etcd sets the load: -etcd none is not for tail")
	}
	clusters := map[string]*cluster{}
	for _, name := range s.names() {
		c, err := s.start(ctx, name)
		if err != nil {
			return err
		}
		defer c.stop()
		if err := load(ctx, c, s.o); err != nil {
			return err
		}
		clusters[name] = c
	}
	time.Sleep(5 * time.Second)
	t := newTable(s.names())
	for _, w := range []struct {
		name string
		do   op
	}{{"put", put}, {"get-lin", get(false)}, {"mixed", mixed}} {
		peak, err := loop(0, w.do)(ctx, clusters["etcd"], s.o)
		if err != nil {
			return err
		}
		rate := peak.rate() / 2
		log.Printf("%s: %.0f requests a second, half of etcd's peak", w.name, rate)
		for _, name := range s.names() {
			r, err := atRate(ctx, clusters[name], w.do, rate, s.o)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", w.name, name, err)
			}
			for _, q := range []float64{0.5, 0.99, 0.999} {
				t.set(fmt.Sprintf("%s at %.0f/s, p%g ms", w.name, rate, q*100), name, r.quantile(q))
			}
		}
	}
	t.print()
	return nil
}

// atRate sends requests at a fixed rate for o.duration.
func atRate(ctx context.Context, c *cluster, do op, rate float64, o options) (result, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var res result
	var failure atomic.Pointer[error]
	begin := time.Now()
	for i := 0; ; i++ {
		due := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if due.Sub(begin) > o.duration || failure.Load() != nil {
			break
		}
		time.Sleep(time.Until(due))
		wg.Go(func() {
			rctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			rng := rand.New(rand.NewPCG(uint64(i), uint64(begin.UnixNano())))
			if _, err := do(rctx, c.kv(i), rng, o); err != nil {
				failure.Store(&err)
				return
			}
			took := time.Since(due)
			mu.Lock()
			res.lat = append(res.lat, took)
			mu.Unlock()
		})
	}
	wg.Wait()
	if err := failure.Load(); err != nil {
		return res, *err
	}
	res.count, res.elapsed = int64(len(res.lat)), time.Since(begin)
	slices.Sort(res.lat)
	return res, nil
}
