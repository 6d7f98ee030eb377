package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/store"
)

// encoded is an answer of which the greater part is kept in its wire encoding: sending it copies bytes where other
// messages are encoded field by field.
type encoded interface {
	// wireSize returns the size of the message in bytes.
	wireSize() int
	// appendWire appends the message to b.
	appendWire(b []byte) ([]byte, error)
}

// copyInto puts m, which came from a handler, into the empty message into.
func copyInto(into proto.Message, m any) error {
	e, ok := m.(encoded)
	if !ok {
		proto.Merge(into, m.(proto.Message))
		return nil
	}
	b, err := e.appendWire(make([]byte, 0, e.wireSize()))
	if err != nil {
		return err
	}
	return proto.Unmarshal(b, into)
}

// rangeAnswer is a RangeResponse with ready-made key-values.
type rangeAnswer struct{ store.RangeAnswer }

var _ encoded = rangeAnswer{}

const rangeKvsTag = 2<<3 | byte(protowire.BytesType) // of RangeResponse.kvs

func (a rangeAnswer) wireSize() int { return a.Size() }

func (a rangeAnswer) appendWire(b []byte) ([]byte, error) {
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, a.RangeResponse)
	return appendFields(b, rangeKvsTag, a.Raw), err
}

// rangeChunk is a RangeStreamResponse that holds a rangeAnswer.
type rangeChunk struct {
	rangeAnswer
	size int // of the answer
}

var _ encoded = rangeChunk{}

const rangeResponseTag = 1<<3 | byte(protowire.BytesType) // of RangeStreamResponse.range_response

func newRangeChunk(a rangeAnswer) rangeChunk { return rangeChunk{a, a.Size()} }

func (c rangeChunk) wireSize() int { return 1 + protowire.SizeBytes(c.size) }

func (c rangeChunk) appendWire(b []byte) ([]byte, error) {
	b = protowire.AppendVarint(append(b, rangeResponseTag), uint64(c.size))
	return c.rangeAnswer.appendWire(b)
}

// appendFields appends messages as elements of one repeated field, the tag of which takes one byte.
func appendFields(b []byte, tag byte, messages [][]byte) []byte {
	for _, m := range messages {
		b = append(b, tag)
		b = protowire.AppendVarint(b, uint64(len(m)))
		b = append(b, m...)
	}
	return b
}

// kvServiceDesc is etcd's description of its KV service, but Range answers with ready-made key-values.
var kvServiceDesc = func() *grpc.ServiceDesc {
	d := pb.KV_ServiceDesc
	d.Methods = append([]grpc.MethodDesc(nil), d.Methods...)
	for i := range d.Methods {
		if d.Methods[i].MethodName == "Range" {
			d.Methods[i].Handler = handleRange
		}
	}
	return &d
}()

func handleRange(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	r := new(pb.RangeRequest)
	if err := dec(r); err != nil {
		return nil, err
	}
	return interceptor(ctx, r, &rangeInfo, func(ctx context.Context, req any) (any, error) {
		return srv.(kvServer).rangeRaw(ctx, req.(*pb.RangeRequest))
	})
}

var rangeInfo = grpc.UnaryServerInfo{FullMethod: pb.KV_Range_FullMethodName}
