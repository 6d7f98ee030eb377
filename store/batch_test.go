package store

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

func TestABatchComesBackAsItWasEncoded(t *testing.T) {
	g := requests.New(1)
	for n := range 20 {
		var cmds []*pb.InternalRaftRequest
		for range n {
			c := g.Next()
			c.Header = &pb.RequestHeader{ID: uint64(len(cmds)), Username: "someone", AuthRevision: 3}
			cmds = append(cmds, c)
		}
		data, err := EncodeBatch(uint64(n)<<40, cmds)
		if err != nil {
			t.Fatal(err)
		}
		id, back, err := DecodeBatch(data)
		if err != nil {
			t.Fatal(err)
		}
		if id != uint64(n)<<40 || len(back) != n {
			t.Fatalf("batch %d of %d requests came back as %d of %d", uint64(n)<<40, n, id, len(back))
		}
		for i := range back {
			if !proto.Equal(back[i], cmds[i]) {
				t.Fatalf("request %d came back as %v, not %v", i, back[i], cmds[i])
			}
		}
	}
}

func TestARequestWithoutValidTextIsNotEncoded(t *testing.T) {
	_, err := EncodeBatch(1, []*pb.InternalRaftRequest{{Header: &pb.RequestHeader{Username: "\xff"}}})
	if err == nil || !strings.Contains(err.Error(), "request 0 of batch 1") {
		t.Fatal(err)
	}
}

func TestDamagedBatchesAreRefused(t *testing.T) {
	good, err := EncodeBatch(5, []*pb.InternalRaftRequest{{Put: &pb.PutRequest{Key: []byte("a")}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
		text string
	}{
		{"a short header", good[:5], "shorter than its header"},
		{"another version", append([]byte{9}, good[1:]...), "version 9"},
		{"a request cut off", good[:len(good)-1], "request 0 of batch 5"},
		{"a length without a request", append(good[:len(good):len(good)], 200, 1), "request 1 of batch 5"},
		{"a request of noise", append(good[:len(good):len(good)], 2, 0xff, 0xff), "request 1 of batch 5"},
	} {
		if _, _, err := DecodeBatch(c.data); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	g := requests.New(1)
	for n := range 5 {
		var cmds []*pb.InternalRaftRequest
		for range n {
			cmds = append(cmds, g.Next())
		}
		data, err := EncodeBatch(uint64(n), cmds)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		id, cmds, err := DecodeBatch(data)
		if err != nil {
			return
		}
		again, err := EncodeBatch(id, cmds)
		if err != nil {
			t.Fatal(err)
		}
		if _, back, err := DecodeBatch(again); err != nil || len(back) != len(cmds) {
			t.Fatalf("a decoded batch cannot be encoded: %v", err)
		}
	})
}
