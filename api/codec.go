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
	if e, ok := v.(encoded); ok {
		data, err = parts(e)
	} else {
		data, err = c.CodecV2.Marshal(v)
	}
	sentBytes.Add(float64(data.Len()))
	return data, err
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	receivedBytes.Add(float64(data.Len()))
	return c.CodecV2.Unmarshal(data, v)
}
