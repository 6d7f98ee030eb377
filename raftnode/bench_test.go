package raftnode

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/cofferkv/coffer/journal"
)

// onDisk opens a member on a real file system.
func onDisk(b *testing.B) *member {
	b.Helper()
	return openForBench(b, &member{base: vfs.Default, dir: b.TempDir()})
}

// openForBench opens a member whose journal has segments of the usual size.
func openForBench(b *testing.B, m *member) *member {
	b.Helper()
	m.t, m.id, m.segment = b, 1, journal.DefaultSegmentSize
	if err := m.open(); err != nil {
		b.Fatal(err)
	}
	return m
}

// onSlowDisk opens a member on a file system in memory, whose syncs take the
// given time.
func onSlowDisk(b *testing.B, delay time.Duration) *member {
	b.Helper()
	return openForBench(b, &member{base: errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			time.Sleep(delay)
		}
		return nil
	}))})
}

// parallel runs clients that share b.N calls of do among themselves.
func parallel(b *testing.B, clients int, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(cpu)/1000/float64(b.N), "cpu-us/op")
}

// BenchmarkPut writes values of 1 KiB.
func BenchmarkPut(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { benchmarkPut(b, onDisk(b), clients) })
	}
}

// BenchmarkSlowDisk shows how much of what batching allows is reached: all
// clients in one sync, one sync after the other (of-batching is 1 then), less
// the time that the answers and the next requests take.
func BenchmarkSlowDisk(b *testing.B) {
	for _, delay := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond} {
		for _, clients := range []int{2, 16, 256} {
			b.Run(fmt.Sprintf("delay=%v/clients=%d", delay, clients), func(b *testing.B) {
				benchmarkPut(b, onSlowDisk(b, delay), clients)
				allowed := float64(clients) / delay.Seconds()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/allowed, "of-batching")
			})
		}
	}
}

func benchmarkPut(b *testing.B, m *member, clients int) {
	m.start().awaitReady()
	defer m.stop()
	value := strings.Repeat("v", 1024)
	first := m.node.Status().Applied
	parallel(b, clients, func(i int) error {
		_, err := m.tryPut(context.Background(), fmt.Sprintf("key-%09d", i), value)
		return err
	})
	b.ReportMetric(float64(b.N)/float64(m.node.Status().Applied-first), "ops/entry")
}

// BenchmarkReadIndex measures what makes a read linearizable.
func BenchmarkReadIndex(b *testing.B) {
	for _, clients := range []int{1, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			m := onDisk(b).start().awaitReady()
			defer m.stop()
			parallel(b, clients, func(int) error { return m.node.ReadIndex(context.Background()) })
		})
	}
}

// BenchmarkStart is what a start takes after a crash that left 100,000 keys,
// the newest of them only in the journal.
func BenchmarkStart(b *testing.B) {
	m := onDisk(b).start().awaitReady()
	value := strings.Repeat("v", 256)
	var wg sync.WaitGroup
	for c := range 64 {
		wg.Go(func() {
			for i := c; i < 100_000; i += 64 {
				if _, err := m.tryPut(context.Background(), fmt.Sprintf("key-%09d", i), value); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	crashed := b.TempDir()
	if ok, err := vfs.Clone(vfs.Default, vfs.Default, m.dir, crashed, vfs.CloneSync); !ok || err != nil {
		b.Fatal(ok, err)
	}
	m.stop()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		dir := b.TempDir()
		if ok, err := vfs.Clone(vfs.Default, vfs.Default, crashed, dir, vfs.CloneSync); !ok || err != nil {
			b.Fatal(ok, err)
		}
		r := &member{t: b, id: 1, base: vfs.Default, dir: dir}
		b.StartTimer()
		if err := r.open(); err != nil {
			b.Fatal(err)
		}
		opened := b.Elapsed()
		r.start().awaitReady()
		b.StopTimer()
		b.ReportMetric(float64((b.Elapsed() - opened).Milliseconds()), "ms-after-open")
		b.ReportMetric(float64(r.node.Status().Applied), "entries")
		r.stop()
		b.StartTimer()
	}
}
