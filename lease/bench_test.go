package lease

import (
	"context"
	"fmt"
	"runtime"
	"testing"
)

const benchLeases = 100_000

func grantMany(b *testing.B, le *Lessor, n int64) {
	for id := range n {
		if _, err := le.Grant(id+1, 3600+id%600); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRenewAmong100kLeases(b *testing.B) {
	le := New(Options{})
	le.Promote(0)
	grantMany(b, le, benchLeases)
	id := int64(0)
	for b.Loop() {
		id = id%benchLeases + 1
		if _, err := le.Renew(context.Background(), id, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPromote100kLeases(b *testing.B) {
	le := New(Options{})
	grantMany(b, le, benchLeases)
	for b.Loop() {
		le.Promote(0)
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	le := New(Options{})
	grantMany(b, le, benchLeases)
	key := []byte("/registry/leases/kube-node-lease/node-00000")
	id := int64(0)
	for b.Loop() {
		id = id%benchLeases + 1
		if err := le.Attach(id, key); err != nil {
			b.Fatal(err)
		}
		le.Detach(id, key)
	}
}

// BenchmarkMemory reports what leases and attached keys take.
func BenchmarkMemory(b *testing.B) {
	for _, c := range []struct{ leases, keys int }{{100_000, 1}, {1000, 1000}, {1, 1_000_000}} {
		b.Run(fmt.Sprintf("%dx%d", c.leases, c.keys), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				le := New(Options{})
				grantMany(b, le, int64(c.leases))
				for id := range c.leases {
					for k := range c.keys {
						if err := le.Attach(int64(id+1), fmt.Appendf(nil, "/registry/events/namespace/%08x.%08x", id, k)); err != nil {
							b.Fatal(err)
						}
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(c.leases*c.keys), "B/key")
				runtime.KeepAlive(le)
			}
		})
	}
}
