package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/cofferpb"
)

// soak drives coffer with mixed load at a steady rate, rotates its keys and compacts every few minutes, and says whether
// memory, files, goroutines and disk grow.
func soak(args []string) error {
	ctx := context.Background()
	s := newServers("soak")
	s.etcd = "none"
	s.flags.Lookup("d").DefValue, s.o.duration = "1h", time.Hour
	s.flags.Lookup("keys").DefValue, s.o.keys = "20000", 20_000
	rate := s.flags.Float64("rate", 2000, "requests a second")
	period := s.flags.Duration("period", 5*time.Minute, "time between rotations with compactions")
	clean, err := s.parse(ctx, args)
	if err != nil {
		return err
	}
	defer clean()
	c, err := s.start(ctx, "coffer")
	if err != nil {
		return err
	}
	defer c.stop()
	if err := load(ctx, c, s.o); err != nil {
		return err
	}
	var periods []usage
	for end := time.Now().Add(s.o.duration); time.Now().Before(end); {
		o := s.o
		o.duration = *period
		u, err := s.period(ctx, c, *rate, o)
		if err != nil {
			return err
		}
		periods = append(periods, u)
		log.Printf("%3d requests %8.0f  p99 %6.2f ms  memory %7.1f MiB  files %4.0f  goroutines %5.0f  disk %7.1f MiB",
			len(periods), u.requests, u.p99, u.memory, u.files, u.goroutines, u.disk)
		if err := maintain(ctx, c); err != nil {
			return err
		}
	}
	// The first periods fill caches and the history that compaction bounds from then on.
	settled := periods[len(periods)/4:]
	half := len(settled) / 2
	if half == 0 {
		return nil
	}
	fmt.Printf("\n%-20s %12s %12s %10s\n", "mean of periods", "first half", "second half", "change")
	for _, f := range []struct {
		name string
		of   func(usage) float64
	}{
		{"memory MiB", func(u usage) float64 { return u.memory }},
		{"files", func(u usage) float64 { return u.files }},
		{"goroutines", func(u usage) float64 { return u.goroutines }},
		{"disk MiB", func(u usage) float64 { return u.disk }},
		{"p99 ms", func(u usage) float64 { return u.p99 }},
	} {
		before, after := mean(settled[:half], f.of), mean(settled[half:], f.of)
		fmt.Printf("%-20s %12.2f %12.2f %9.1f%%\n", f.name, before, after, (after/before-1)*100)
	}
	return nil
}

// usage is what a period took: the requests' slowest, and of the rest the mean over samples taken every second.
type usage struct{ requests, p99, memory, files, goroutines, disk float64 }

func mean(periods []usage, of func(usage) float64) float64 {
	sum := 0.0
	for _, u := range periods {
		sum += of(u)
	}
	return sum / float64(len(periods))
}

func (s *servers) period(ctx context.Context, c *cluster, rate float64, o options) (usage, error) {
	var u usage
	stop := make(chan struct{})
	var sampling sync.WaitGroup
	sampling.Go(func() {
		samples := 0.0
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				u.memory += c.memoryMiB()
				u.files += c.files()
				u.goroutines += goroutines(c)
				u.disk += c.diskMiB()
				samples++
			case <-stop:
				u.memory, u.files, u.goroutines, u.disk = u.memory/samples, u.files/samples, u.goroutines/samples, u.disk/samples
				return
			}
		}
	})
	half := func(ctx context.Context, kv pb.KVClient, rng *rand.Rand, o options) (int64, error) {
		if rng.IntN(2) == 0 {
			return put(ctx, kv, rng, o)
		}
		return mixed(ctx, kv, rng, o)
	}
	r, err := atRate(ctx, c, half, rate, o)
	close(stop)
	sampling.Wait()
	u.requests, u.p99 = float64(r.count), r.quantile(0.99)
	return u, err
}

func goroutines(c *cluster) float64 {
	resp, err := http.Get("http://" + c.addrs[0] + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, _ := strconv.ParseFloat(v, 64)
			return n
		}
	}
	return 0
}

// maintain rotates the data keys and compacts all history.
func maintain(ctx context.Context, c *cluster) error {
	if _, err := cofferpb.NewKeysClient(c.conns[0]).Rotate(ctx, &cofferpb.RotateRequest{}); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	r, err := c.kv(0).Range(ctx, &pb.RangeRequest{Key: key(0), KeysOnly: true})
	if err != nil {
		return err
	}
	if _, err := c.kv(0).Compact(ctx, &pb.CompactionRequest{Revision: r.Header.Revision}); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}
