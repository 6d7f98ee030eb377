package main

import (
	"context"
	"fmt"
	"log"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// scale loads many small keys and measures what grows with their number: the time to load and to restart, memory, disk,
// a page of a list wherever it is, and reads while a million old versions are being compacted.
func scale(args []string) error {
	ctx := context.Background()
	s := newServers("scale")
	s.flags.Lookup("keys").DefValue, s.o.keys = "1000000", 1_000_000
	s.flags.Lookup("value").DefValue, s.o.value = "256", 256
	old := s.flags.Int("old", 1_000_000, "old versions to compact")
	clean, err := s.parse(ctx, args)
	if err != nil {
		return err
	}
	defer clean()
	t := newTable(s.names())
	for _, name := range s.names() {
		if err := s.scale(ctx, name, *old, func(figure string, v float64) { t.set(figure, name, v) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	t.print()
	return nil
}

func (s *servers) scale(ctx context.Context, name string, old int, set func(string, float64)) error {
	c, err := s.start(ctx, name)
	if err != nil {
		return err
	}
	defer c.stop()
	log.Printf("%s: loading %d keys of %d bytes ...", name, s.o.keys, s.o.value)
	begin := time.Now()
	if err := load(ctx, c, s.o); err != nil {
		return err
	}
	set("load keys/s", float64(s.o.keys)/time.Since(begin).Seconds())
	set("memory peak while loading MiB", c.peakRSS())
	time.Sleep(5 * time.Second)
	set("disk MiB", c.diskMiB())
	seconds, err := c.crashAndRecover(ctx)
	if err != nil {
		return err
	}
	set("restart after kill -9 s", seconds)
	time.Sleep(2 * time.Second)
	set("memory after restart MiB", c.memoryMiB())
	set("memory per key bytes", c.memoryMiB()*(1<<20)/float64(s.o.keys))
	if err := s.pages(ctx, c, set); err != nil {
		return err
	}
	return s.compaction(ctx, c, old, set)
}

// pages measures pages of 500 at both ends and in the middle of the range: first pages, which read the present, and
// continued ones, which read at the revision of a first page that has since become old.
func (s *servers) pages(ctx context.Context, c *cluster, set func(string, float64)) error {
	log.Printf("%s: reading pages ...", c.name)
	kv := c.kv(0)
	end := []byte("/registry/pods/namespace0")
	first, err := kv.Range(ctx, &pb.RangeRequest{Key: key(0), RangeEnd: end, Limit: 500})
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: key(0), Value: []byte("v")}); err != nil {
		return err
	}
	for _, at := range []struct {
		name string
		from int
	}{{"beginning", 0}, {"middle", s.o.keys / 2}, {"end", s.o.keys - 500}} {
		for _, rev := range []struct {
			name string
			rev  int64
		}{{"first", 0}, {"continued", first.Header.Revision}} {
			var ms []float64
			for i := range 25 {
				from := max(at.from-i, 0)
				start := time.Now()
				r, err := kv.Range(ctx, &pb.RangeRequest{Key: key(from), RangeEnd: end, Limit: 500, Revision: rev.rev})
				if err != nil {
					return err
				}
				if len(r.Kvs) != 500 || r.Count != int64(s.o.keys-from) {
					return fmt.Errorf("a page of %d keys, count %d", len(r.Kvs), r.Count)
				}
				ms = append(ms, time.Since(start).Seconds()*1000)
			}
			set(fmt.Sprintf("page of 500, %s, at the %s, p50 ms", rev.name, at.name), median(ms))
		}
	}
	return nil
}

// compaction measures reads while nothing else goes on, and while old versions are being removed.
func (s *servers) compaction(ctx context.Context, c *cluster, old int, set func(string, float64)) error {
	log.Printf("%s: writing %d old versions ...", c.name, old)
	o := s.o
	for old > 0 {
		o.keys = min(old, s.o.keys)
		if err := load(ctx, c, o); err != nil {
			return err
		}
		old -= o.keys
	}
	time.Sleep(5 * time.Second)
	idle, err := loop(16, get(false))(ctx, c, s.o)
	if err != nil {
		return err
	}
	set("reads when idle, p99 ms", idle.quantile(0.99))
	r, err := c.kv(0).Range(ctx, &pb.RangeRequest{Key: key(0)})
	if err != nil {
		return err
	}
	compacted := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := c.kv(0).Compact(ctx, &pb.CompactionRequest{Revision: r.Header.Revision, Physical: true})
		set("compaction s", time.Since(begin).Seconds())
		compacted <- err
	}()
	busy, err := loop(16, get(false))(ctx, c, s.o)
	if err != nil {
		return err
	}
	if err := <-compacted; err != nil {
		return err
	}
	set("reads during compaction, p99 ms", busy.quantile(0.99))
	set("reads during compaction, p99 to idle", busy.quantile(0.99)/idle.quantile(0.99))
	return nil
}
