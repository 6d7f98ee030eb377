package auth

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
)

// The keys of words of up to three letters are all there are: a range may be read if every one of them may.
func TestARangeIsAllowedIfEachOfItsKeysIs(t *testing.T) {
	var all [][]byte
	var make3 func(prefix []byte)
	make3 = func(prefix []byte) {
		for _, c := range []byte{0, 'a', 'b'} {
			k := append(bytes.Clone(prefix), c)
			all = append(all, k)
			if len(k) < 3 {
				make3(k)
			}
		}
	}
	make3(nil)
	inside := func(k, key, end []byte) bool {
		if len(end) == 0 {
			return bytes.Equal(k, key)
		}
		return bytes.Compare(k, key) >= 0 && (isOpenEnd(end) || bytes.Compare(k, end) < 0)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func() (key, end []byte) {
		key = all[rng.IntN(len(all))]
		switch rng.IntN(4) {
		case 0:
			end = []byte{0}
		case 1, 2:
			end = all[rng.IntN(len(all))]
			if bytes.Compare(key, end) > 0 {
				key, end = end, key
			}
			if bytes.Equal(key, end) {
				end = nil
			}
		}
		if bytes.Equal(key, end) && !isOpenEnd(end) {
			end = nil
		}
		return key, end
	}
	allowed, denied := 0, 0
	for range 3000 {
		role := &authpb.Role{}
		for range rng.IntN(6) {
			key, end := pick()
			role.KeyPermission = append(role.KeyPermission, &authpb.Permission{Key: key, RangeEnd: end})
		}
		p := mergePermissions([]*authpb.Role{role})
		if len(p.write) != 0 {
			t.Fatal("who may read may write")
		}
		may := func(k []byte) bool {
			for _, q := range role.KeyPermission {
				if inside(k, q.Key, q.RangeEnd) {
					return true
				}
			}
			return false
		}
		for range 20 {
			key, end := pick()
			want := true
			for _, k := range all {
				want = want && (!inside(k, key, end) || may(k))
			}
			got := p.read.contain(key, end)
			if got {
				allowed++
			} else {
				denied++
			}
			// Between two of the keys there are longer ones, which a point does not cover: what is denied may be allowed
			// for all the keys there are, but never the other way.
			if got && !want || !got && want && len(end) == 0 {
				t.Fatalf("%v: %q..%q is allowed: %v, want %v", role.KeyPermission, key, end, got, want)
			}
		}
	}
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d allowed, %d denied", allowed, denied)
	}
}

func TestWhoMayDoWhatIsDecidedWithoutAllocating(t *testing.T) {
	s := benchmarkState(t, 1)
	c := Caller{"user0", s.Revision()}
	key, end := []byte("registry/pods/x"), []byte("registry/pods0")
	if n := testing.AllocsPerRun(100, func() {
		if s.CheckRead(c, key, end) != nil || s.CheckWrite(c, key, nil) != nil {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
