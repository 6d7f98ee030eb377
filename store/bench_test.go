package store

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// benchKey returns one of 100,000 keys of the length that Kubernetes has.
func benchKey(i int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-%03d/pod-%08d", i%100, i%100_000)
}

func BenchmarkApply(b *testing.B) {
	value := bytes.Repeat([]byte("v"), 1024)
	kinds := map[string]func(i int) *pb.InternalRaftRequest{
		"put": func(i int) *pb.InternalRaftRequest {
			return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: benchKey(i), Value: value}}
		},
		// The update of an object by kube-apiserver.
		"txn": func(i int) *pb.InternalRaftRequest {
			k := benchKey(i)
			return &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: k, Target: pb.Compare_MOD, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_ModRevision{ModRevision: -1}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: value}}}},
				Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}}},
			}}
		},
	}
	for _, kind := range []string{"put", "txn"} {
		for _, size := range []int{1, 16, 128} {
			for _, decode := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/batch=%d/decode=%v", kind, size, decode), func(b *testing.B) {
					m := newMember(b)
					b.ReportAllocs()
					b.SetBytes(1024)
					for i := 0; i < b.N; i += size {
						b.StopTimer()
						cmds := make([]*pb.InternalRaftRequest, size)
						for j := range cmds {
							cmds[j] = kinds[kind](i + j)
						}
						e := m.requests(cmds...)
						if !decode {
							e.Commands = cmds
						}
						b.StartTimer()
						m.apply(e)
					}
				})
			}
		}
	}
}

func BenchmarkRange(b *testing.B) {
	m := newMember(b)
	value := bytes.Repeat([]byte("v"), 256)
	for i := 0; i < 100_000; i += 1000 {
		var cmds []*pb.InternalRaftRequest
		for j := range 1000 {
			cmds = append(cmds, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: benchKey(i + j), Value: value}})
		}
		m.apply(m.requests(cmds...))
	}
	if err := m.store.DB().Flush(); err != nil {
		b.Fatal(err)
	}
	all := func(r *pb.RangeRequest) *pb.RangeRequest {
		r.Key, r.RangeEnd = []byte("/registry/pods/"), []byte("/registry/pods0")
		return r
	}
	for _, c := range []struct {
		name string
		req  func(i int) *pb.RangeRequest
	}{
		{"get", func(i int) *pb.RangeRequest { return &pb.RangeRequest{Key: benchKey(i * 7919)} }},
		{"page=500", func(i int) *pb.RangeRequest {
			return &pb.RangeRequest{Key: benchKey(i * 7919), RangeEnd: []byte("/registry/pods0"), Limit: 500}
		}},
		{"count", func(int) *pb.RangeRequest { return all(&pb.RangeRequest{CountOnly: true}) }},
		{"keys=500", func(int) *pb.RangeRequest { return all(&pb.RangeRequest{KeysOnly: true, Limit: 500}) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r, err := m.store.Range(context.Background(), c.req(i))
				if err != nil || r.Count == 0 {
					b.Fatal(r, err)
				}
			}
		})
	}
}

func BenchmarkBatch(b *testing.B) {
	var cmds []*pb.InternalRaftRequest
	for i := range 128 {
		cmds = append(cmds, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: benchKey(i), Value: make([]byte, 1024)}})
	}
	data, err := EncodeBatch(1, cmds)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := EncodeBatch(1, cmds); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := DecodeBatch(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
