package api

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
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
