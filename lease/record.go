package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Record is the replicated state of a lease without its keys: those carry the
// lease's id themselves and are attached again at start. It is a value.
type Record struct {
	ID int64
	// TTL is the granted time to live in seconds, 1 to MaxTTL.
	TTL int64
	// Remaining is the time to live, in seconds, that the last checkpoint
	// left; 0 if there was none since the lease was granted or renewed.
	Remaining int64
}

const (
	recordVersion = 1
	recordSize    = 1 + 3*8
)

// errRecord says that stored bytes are no lease record of a known version.
var errRecord = errors.New("malformed lease record")

// Append appends the stored form of r to b and returns the result: a version
// byte (1), then ID, TTL and Remaining as 64-bit big-endian numbers.
func (r Record) Append(b []byte) []byte {
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(r.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(r.TTL))
	return binary.BigEndian.AppendUint64(b, uint64(r.Remaining))
}

// ParseRecord decodes what Append wrote. It accepts no other bytes.
func ParseRecord(b []byte) (Record, error) {
	if len(b) == 0 {
		return Record{}, fmt.Errorf("%w: no bytes", errRecord)
	}
	if b[0] != recordVersion {
		return Record{}, fmt.Errorf("%w: version %d, this program knows %d: use a newer one", errRecord, b[0], recordVersion)
	}
	if len(b) != recordSize {
		return Record{}, fmt.Errorf("%w: %d bytes instead of %d", errRecord, len(b), recordSize)
	}
	r := Record{
		ID:        int64(binary.BigEndian.Uint64(b[1:])),
		TTL:       int64(binary.BigEndian.Uint64(b[9:])),
		Remaining: int64(binary.BigEndian.Uint64(b[17:])),
	}
	return r, r.check()
}

func (r Record) check() error {
	switch {
	case r.ID == 0:
		return fmt.Errorf("%w: id 0", errRecord)
	case r.TTL < 1 || r.TTL > MaxTTL:
		return fmt.Errorf("%w: lease %x has a TTL of %d s", errRecord, uint64(r.ID), r.TTL)
	case r.Remaining < 0 || r.Remaining > MaxTTL:
		return fmt.Errorf("%w: lease %x has %d s remaining", errRecord, uint64(r.ID), r.Remaining)
	}
	return nil
}
