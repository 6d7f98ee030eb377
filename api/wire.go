package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/store"
)

// encoded is an answer of which the greater part is kept in its wire encoding: it is sent from where it lies, while other
// messages are encoded field by field into a buffer.
type encoded interface {
	// wireSize returns the size of the message in bytes.
	wireSize() int
	// write writes the message to w.
	write(w *wireWriter) error
}

// wireWriter puts a message together of parts that are copied and parts that stay where they are while it is sent.
type wireWriter struct {
	parts  mem.BufferSlice
	copied []byte // what comes after the last of parts
}

// sharedSize is the size, in bytes, from which on a part is not copied. For smaller ones a copy is cheaper.
const sharedSize = 512

// share writes bytes that do not change any more.
func (w *wireWriter) share(b []byte) {
	if len(b) < sharedSize {
		w.copied = append(w.copied, b...)
		return
	}
	w.parts = append(w.parts, mem.SliceBuffer(w.copied), mem.SliceBuffer(b))
	if w.copied = w.copied[len(w.copied):]; cap(w.copied) < 16 {
		w.copied = make([]byte, 0, 1<<10) // what stands between the parts of a long message is a few bytes each
	}
}

// message writes a message that has to be encoded.
func (w *wireWriter) message(m proto.Message) (err error) {
	w.copied, err = proto.MarshalOptions{}.MarshalAppend(w.copied, m)
	return err
}

// field writes the tag, which takes one byte, and the length of a field that the next so many bytes are the value of.
func (w *wireWriter) field(tag byte, size int) {
	w.copied = protowire.AppendVarint(append(w.copied, tag), uint64(size))
}

// parts returns the message in parts.
func parts(e encoded) (mem.BufferSlice, error) {
	w := wireWriter{copied: make([]byte, 0, 96)}
	if err := e.write(&w); err != nil {
		return nil, err
	}
	return append(w.parts, mem.SliceBuffer(w.copied)), nil
}

// copyInto puts m, which came from a handler, into the empty message into.
func copyInto(into proto.Message, m any) error {
	e, ok := m.(encoded)
	if !ok {
		proto.Merge(into, m.(proto.Message))
		return nil
	}
	p, err := parts(e)
	if err != nil {
		return err
	}
	return proto.Unmarshal(p.Materialize(), into)
}

// rangeAnswer is a RangeResponse with ready-made key-values.
type rangeAnswer struct{ store.RangeAnswer }

var _ encoded = rangeAnswer{}

const rangeKvsTag = 2<<3 | byte(protowire.BytesType) // of RangeResponse.kvs

func (a rangeAnswer) wireSize() int { return a.Size() }

func (a rangeAnswer) write(w *wireWriter) error {
	err := w.message(a.RangeResponse)
	for _, kv := range a.Raw {
		w.field(rangeKvsTag, len(kv))
		w.share(kv)
	}
	return err
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

func (c rangeChunk) write(w *wireWriter) error {
	w.field(rangeResponseTag, c.size)
	return c.rangeAnswer.write(w)
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
