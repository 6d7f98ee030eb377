package auth

import (
	"fmt"
	"strconv"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// benchmarkState has users with the permissions of a kube-apiserver, and ranges permissions besides.
func benchmarkState(t testing.TB, ranges int) *State {
	r := Records{Enabled: true, Revision: 5}
	role := &authpb.Role{Name: []byte("r")}
	for i := range ranges {
		role.KeyPermission = append(role.KeyPermission, &authpb.Permission{
			PermType: authpb.Permission_READWRITE, Key: fmt.Appendf(nil, "k%06d/", i), RangeEnd: fmt.Appendf(nil, "k%06d0", i)})
	}
	role.KeyPermission = append(role.KeyPermission, &authpb.Permission{
		PermType: authpb.Permission_READWRITE, Key: []byte("registry/"), RangeEnd: []byte("registry0")})
	r.Roles = []*authpb.Role{role}
	for i := range 100 {
		r.Users = append(r.Users, &authpb.User{Name: []byte("user" + strconv.Itoa(i)), Roles: []string{"r"}})
	}
	s, err := Load(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func BenchmarkCheck(b *testing.B) {
	for _, ranges := range []int{0, 10, 1000} {
		s := benchmarkState(b, ranges)
		c := Caller{"user7", s.Revision()}
		put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("registry/pods/default/x")}}
		b.Run(fmt.Sprintf("put/ranges=%d", ranges), func(b *testing.B) {
			for b.Loop() {
				if err := s.Authorize(c, nil, put); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	off := New()
	b.Run("off", func(b *testing.B) {
		for b.Loop() {
			if err := off.CheckRead(Caller{}, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkTokens(b *testing.B) {
	simple := SimpleTokens(0)
	for range 1000 {
		simple.Assign(simple.Draw(), 1, "other")
	}
	token := simple.Assign(simple.Draw(), 1, "user")
	b.Run("simple", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, ok := simple.Caller(token, 1); !ok {
					b.Fatal("no token")
				}
			}
		})
	})
}

func BenchmarkGrantPermission(b *testing.B) {
	s := benchmarkState(b, 1000)
	for b.Loop() {
		if _, err := s.GrantPermission(discard{}, "r", &authpb.Permission{Key: []byte("k")}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) PutUser(*authpb.User)   {}
func (discard) DeleteUser(string)      {}
func (discard) PutRole(*authpb.Role)   {}
func (discard) DeleteRole(string)      {}
func (discard) PutStatus(bool, uint64) {}
