package lease

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// MaxTTL is the longest TTL that is granted, in seconds. In nanoseconds it
// still fits into 63 bits.
const MaxTTL = 9_000_000_000

// MinTTL returns the shortest TTL, in whole seconds, that a cluster with this
// election timeout grants: one and a half timeouts, rounded up, so that a
// lease can outlive the choice of a new leader.
func MinTTL(electionTicks int, tick time.Duration) int64 {
	d := time.Duration(3*electionTicks/2) * tick
	return int64((d + time.Second - 1) / time.Second)
}

// Prepare completes a grant before it is proposed: it chooses an id, a random
// positive number, if the client gave none, and raises a TTL below minTTL.
// Both are done here and not when the grant is applied, because members must
// not choose differently.
func Prepare(r *pb.LeaseGrantRequest, minTTL int64) {
	for r.ID == 0 {
		var b [8]byte
		rand.Read(b[:])
		r.ID = int64(binary.BigEndian.Uint64(b[:]) >> 1)
	}
	r.TTL = max(r.TTL, minTTL)
}
