package api

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// codec is gRPC's protobuf codec; it also counts the bytes of messages for etcd's network metrics. It is safe for
// concurrent use.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

func (c codec) Marshal(v any) (data mem.BufferSlice, err error) {
	switch v := v.(type) {
	case parted:
		data, err = v.wireParts()
	case encoded:
		data, err = marshal(v)
	default:
		data, err = c.CodecV2.Marshal(v)
	}
	sentBytes.Add(float64(data.Len()))
	return data, err
}

func marshal(e encoded) (mem.BufferSlice, error) {
	size := e.wireSize()
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := e.appendWire(make([]byte, 0, size))
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	b, err := e.appendWire((*buf)[:0])
	if err != nil {
		pool.Put(buf)
		return nil, err
	}
	*buf = b
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	receivedBytes.Add(float64(data.Len()))
	return c.CodecV2.Unmarshal(data, v)
}

// parted is an encoded answer of which parts need not even be copied: they stay as they are while it is sent.
type parted interface {
	encoded
	// wireParts returns the message in parts.
	wireParts() (mem.BufferSlice, error)
}
