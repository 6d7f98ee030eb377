package store

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A log entry's data is a batch of requests:
//
//	byte 0      version, batchVersion
//	bytes 1-8   batch id, big endian, chosen by the proposer
//	then        for every request its length (unsigned varint) and the
//	            marshalled InternalRaftRequest
//
// An entry without data is the one a new leader appends; it holds no batch.
const (
	batchVersion    = 1
	batchHeaderSize = 1 + 8
)

// EncodeBatch returns the log entry data for cmds, in their order. The id is
// handed back by Apply (EntryResult.ID), by which the proposer finds its
// waiting callers. The result is not shared with cmds. The only error is a
// string field that is not valid UTF-8, which nothing that came in over gRPC has.
func EncodeBatch(id uint64, cmds []*pb.InternalRaftRequest) ([]byte, error) {
	size := batchHeaderSize
	sizes := make([]int, len(cmds))
	for i, c := range cmds {
		sizes[i] = proto.Size(c)
		size += protowire.SizeBytes(sizes[i])
	}
	b := make([]byte, 1, size)
	b[0] = batchVersion
	b = binary.BigEndian.AppendUint64(b, id)
	// Sizes were computed just above, so the marshaller need not walk again.
	opts := proto.MarshalOptions{UseCachedSize: true}
	for i, c := range cmds {
		b = protowire.AppendVarint(b, uint64(sizes[i]))
		var err error
		if b, err = opts.MarshalAppend(b, c); err != nil {
			return nil, fmt.Errorf("encoding request %d of batch %d: %w", i, id, err)
		}
	}
	return b, nil
}

// DecodeBatch is the inverse of EncodeBatch. The requests do not alias data.
// Any error means that the entry was written by another version of Coffer or
// is damaged.
func DecodeBatch(data []byte) (id uint64, cmds []*pb.InternalRaftRequest, err error) {
	if err := checkHeader(data); err != nil {
		return 0, nil, err
	}
	id = BatchID(data)
	for b := data[batchHeaderSize:]; len(b) > 0; {
		raw, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, nil, fmt.Errorf("request %d of batch %d: %w", len(cmds), id, protowire.ParseError(n))
		}
		c := &pb.InternalRaftRequest{}
		if err := proto.Unmarshal(raw, c); err != nil {
			return 0, nil, fmt.Errorf("request %d of batch %d: %w", len(cmds), id, err)
		}
		cmds = append(cmds, c)
		b = b[n:]
	}
	return id, cmds, nil
}

// BatchID returns the id of an entry's batch, 0 if the data is not a batch.
func BatchID(data []byte) uint64 {
	if checkHeader(data) != nil {
		return 0
	}
	return binary.BigEndian.Uint64(data[1:])
}

func checkHeader(data []byte) error {
	if len(data) < batchHeaderSize {
		return fmt.Errorf("batch of %d bytes is shorter than its header", len(data))
	}
	if data[0] != batchVersion {
		return fmt.Errorf("batch has version %d, this program knows version %d", data[0], batchVersion)
	}
	return nil
}
