package api

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/identity"
)

// What this package adds to a request between gRPC and the layers below.
func BenchmarkInterceptor(b *testing.B) {
	m := startMember(b)
	ctx := peerContext(ConnInfo{Caller: &identity.Caller{CommonName: "alice"}})
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("client-api-version", "3.7", "hasleader", "true"))
	info := &grpc.UnaryServerInfo{FullMethod: pb.KV_Put_FullMethodName}
	req, resp := &pb.PutRequest{Key: []byte("k")}, &pb.PutResponse{}
	handler := func(context.Context, any) (any, error) { return resp, nil }
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := m.api.unary(ctx, req, info, handler); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkCheckTxn(b *testing.B) {
	for _, n := range []int{1, 16, 128} {
		r := &pb.TxnRequest{}
		for i := range n {
			r.Success = append(r.Success, opPut(fmt.Sprint("key-", i)), opDelete(fmt.Sprint("old-", i), fmt.Sprint("old-", i, "z")))
		}
		b.Run(fmt.Sprint(2*n, "-operations"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := checkTxn(r, 256); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Whole requests, over gRPC and the loopback interface to a member in this process.
func BenchmarkPut(b *testing.B) {
	m := startMember(b)
	kv, ctx := m.kv(), context.Background()
	value := make([]byte, 1024)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(fmt.Sprint("key-", i&1023)), Value: value}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkRange(b *testing.B) {
	m := startMember(b)
	m.put(b, "k", string(make([]byte, 1024)))
	for name, serializable := range map[string]bool{"linearizable": false, "serializable": true} {
		b.Run(name, func(b *testing.B) {
			kv, ctx := m.kv(), context.Background()
			b.ReportAllocs()
			b.SetParallelism(64)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: serializable}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// rawCodec leaves what is received undecoded and keeps only its size.
type rawCodec struct{ encoding.CodecV2 }

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// cpuTime returns what the process has used: of a machine that does other things too it tells more than the time.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Puts of 1 KiB by 16 clients, and 64 watchers of them on streams of their own over 16 connections; ns/op is per event that
// a watcher receives. The clients do not decode what they receive.
func BenchmarkWatch(b *testing.B) {
	const watchers, conns, writers, size = 64, 16, 16, 1024
	for name, prevKV := range map[string]bool{"plain": false, "prevKV": true} {
		b.Run(name, func(b *testing.B) {
			m := startMember(b)
			for i := range writers {
				m.put(b, fmt.Sprint("key-", i), string(make([]byte, size)))
			}
			var received atomic.Int64
			var created sync.WaitGroup
			for range conns {
				conn, err := grpc.NewClient(m.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
				must(b, err)
				b.Cleanup(func() { conn.Close() })
				for range watchers / conns {
					s, err := conn.NewStream(context.Background(), &pb.Watch_ServiceDesc.Streams[0], pb.Watch_Watch_FullMethodName,
						grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2("proto")}))
					must(b, err)
					must(b, s.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
						CreateRequest: &pb.WatchCreateRequest{Key: []byte("key-"), RangeEnd: []byte("key."), PrevKv: prevKV}}}))
					created.Add(1)
					go func() {
						var n int
						if s.RecvMsg(&n) == nil {
							created.Done()
						}
						for s.RecvMsg(&n) == nil {
							received.Add(int64(n / (size + 20))) // 20: a little less than what comes with each value
						}
					}()
				}
			}
			created.Wait()
			perPut := int64(watchers)
			if prevKV {
				perPut *= 2
			}
			kv, value := m.kv(), make([]byte, size)
			var puts atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			began := cpuTime()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for puts.Add(1) <= int64(b.N+watchers-1)/watchers {
						if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: fmt.Append(nil, "key-", w), Value: value}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for want := int64(b.N+watchers-1) / watchers * perPut; received.Load() < want; {
				time.Sleep(100 * time.Microsecond)
			}
			b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// What authentication costs: the same requests by nobody while it is off, and by a user who has logged in while it is on.
func BenchmarkUsers(b *testing.B) {
	value := make([]byte, 1024)
	off, on := startMember(b), startGuarded(b)
	for _, c := range []struct {
		name string
		m    *member
		ctx  context.Context
	}{
		{"off", off, context.Background()},
		{"on", on, withToken(context.Background(), on.tokenOfUser(b, "alice"))},
	} {
		for name, call := range map[string]func() error{
			"put": func() error {
				return errOf(c.m.kv().Put(c.ctx, &pb.PutRequest{Key: []byte("a"), Value: value}))
			},
			"get-serializable": func() error {
				return errOf(c.m.kv().Range(c.ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true}))
			},
		} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(64)
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						if err := call(); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
