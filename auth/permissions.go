package auth

import (
	"bytes"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
)

// interval is the keys from begin up to, and without, end. An end of length 0 is behind all keys.
type interval struct{ begin, end []byte }

// intervalOf is the range of a request or a permission: no end is one key, "\0" as the end is all keys from the first on.
func intervalOf(key, end []byte) interval {
	switch {
	case len(end) == 0:
		return interval{key, append(slices.Clip(key), 0)}
	case isOpenEnd(end):
		return interval{key, nil}
	}
	return interval{key, end}
}

func isOpenEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// endsBefore reports whether end a lies before end b.
func endsBefore(a, b []byte) bool {
	return len(a) != 0 && (len(b) == 0 || bytes.Compare(a, b) < 0)
}

// intervals are disjoint, ascending, and do not touch each other.
type intervals []interval

// unite returns the union of is, which it reorders.
func unite(is []interval) intervals {
	slices.SortFunc(is, func(a, b interval) int { return bytes.Compare(a.begin, b.begin) })
	var u intervals
	for _, i := range is {
		if n := len(u) - 1; n >= 0 && !endsBefore(u[n].end, i.begin) {
			if endsBefore(u[n].end, i.end) {
				u[n].end = i.end
			}
			continue
		}
		u = append(u, i)
	}
	return u
}

// contain reports whether the range of a request is in the intervals. Reading one key allocates nothing.
func (is intervals) contain(key, end []byte) bool {
	n := sort.Search(len(is), func(n int) bool { return bytes.Compare(is[n].begin, key) > 0 }) - 1
	if n < 0 || len(is[n].end) != 0 && bytes.Compare(is[n].end, key) <= 0 {
		return false
	}
	switch {
	case len(end) == 0:
		return true
	case isOpenEnd(end):
		return len(is[n].end) == 0
	}
	return !endsBefore(is[n].end, end)
}

// permissions are what the roles of a user allow together.
type permissions struct{ read, write intervals }

func mergePermissions(roles []*authpb.Role) *permissions {
	var read, write []interval
	for _, r := range roles {
		for _, p := range r.KeyPermission {
			i := intervalOf(p.Key, p.RangeEnd)
			if p.PermType == authpb.Permission_READ || p.PermType == authpb.Permission_READWRITE {
				read = append(read, i)
			}
			if p.PermType == authpb.Permission_WRITE || p.PermType == authpb.Permission_READWRITE {
				write = append(write, i)
			}
		}
	}
	return &permissions{unite(read), unite(write)}
}

// validRange reports whether a permission may have the range. One that ends where it begins, or before, would allow nothing.
func validRange(key, end []byte) bool {
	return len(key) != 0 && (len(end) == 0 || isOpenEnd(end) || bytes.Compare(key, end) < 0)
}
