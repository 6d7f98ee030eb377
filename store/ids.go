package store

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"
	"slices"
	"strconv"
)

// MemberID returns the id of a member that is part of a new cluster. It
// depends on the peer URLs (in any order) and the cluster token alone, so
// members that bootstrap or restore separately compute the same ids.
func MemberID(peerURLs []string, token string) uint64 {
	return memberID(peerURLs, token, "")
}

// AddedMemberID returns the id of a member that joins an existing cluster at
// the given time (Unix seconds). Ids of removed members are never used again;
// the time gives one that comes back under the same URLs another id.
func AddedMemberID(peerURLs []string, token string, unix int64) uint64 {
	return memberID(peerURLs, token, strconv.FormatInt(unix, 10))
}

func memberID(peerURLs []string, token, added string) uint64 {
	urls := slices.Clone(peerURLs)
	slices.Sort(urls)
	h := sha256.New()
	writeField(h, "coffer member id")
	writeField(h, token)
	writeField(h, added)
	for _, u := range urls {
		writeField(h, u)
	}
	return truncateID(h)
}

// ClusterID returns the id of the cluster founded by the given members. Their
// order does not matter.
func ClusterID(memberIDs []uint64) uint64 {
	ids := slices.Clone(memberIDs)
	slices.Sort(ids)
	h := sha256.New()
	writeField(h, "coffer cluster id")
	for _, id := range ids {
		h.Write(binary.BigEndian.AppendUint64(nil, id))
	}
	return truncateID(h)
}

// writeField writes s with its length, so that no two lists of fields are the
// same bytes.
func writeField(h hash.Hash, s string) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
	h.Write([]byte(s))
}

// truncateID keeps the first 8 bytes of the sum, and moves on to the next 8
// where they are an id that raft reserves (0 and the two highest).
func truncateID(h hash.Hash) uint64 {
	sum := h.Sum(nil)
	for ; len(sum) > 8; sum = sum[8:] {
		if id := binary.BigEndian.Uint64(sum); id != 0 && id < math.MaxUint64-1 {
			return id
		}
	}
	return 1
}
