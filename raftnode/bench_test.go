package raftnode

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// onDisk opens a member on a real file system, whose syncs take longer by the
// given time.
func onDisk(b *testing.B, delay time.Duration) *member {
	b.Helper()
	root := b.TempDir()
	m := &member{t: b, id: 1, base: vfs.Default, dir: root}
	if delay > 0 {
		m.base = errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
				time.Sleep(delay)
			}
			return nil
		}))
	}
	if err := m.open(); err != nil {
		b.Fatal(err)
	}
	return m
}

// parallel runs clients that share b.N calls of do among themselves.
func parallel(b *testing.B, clients int, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
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
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkPut writes values of 1 KiB.
func BenchmarkPut(b *testing.B) {
	value := strings.Repeat("v", 1024)
	for _, c := range []struct {
		clients int
		delay   time.Duration
	}{{1, 0}, {16, 0}, {256, 0}, {256, 2 * time.Millisecond}, {256, 10 * time.Millisecond}} {
		b.Run(fmt.Sprintf("clients=%d/delay=%v", c.clients, c.delay), func(b *testing.B) {
			m := onDisk(b, c.delay).start().awaitReady()
			defer m.stop()
			first := m.node.Status().Applied
			parallel(b, c.clients, func(i int) error {
				_, err := m.tryPut(context.Background(), fmt.Sprintf("key-%09d", i), value)
				return err
			})
			b.ReportMetric(float64(b.N)/float64(m.node.Status().Applied-first), "ops/entry")
		})
	}
}

// BenchmarkReadIndex measures what makes a read linearizable.
func BenchmarkReadIndex(b *testing.B) {
	for _, clients := range []int{1, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			m := onDisk(b, 0).start().awaitReady()
			defer m.stop()
			parallel(b, clients, func(int) error { return m.node.ReadIndex(context.Background()) })
		})
	}
}

// BenchmarkStart is what a start takes after a crash that left 100,000 keys,
// the newest of them only in the journal.
func BenchmarkStart(b *testing.B) {
	m := onDisk(b, 0).start().awaitReady()
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
