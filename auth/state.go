package auth

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Root is the name of the user that cannot be locked out, and of the role that may do everything.
const Root = "root"

// firstRevision is that of a state which nothing has changed.
const firstRevision = 1

// Caller is the user on whose behalf a request is made, as found out at a revision of the state. The zero Caller is nobody.
type Caller struct {
	Name     string
	Revision uint64
}

// Known reports whether the request named a user, by a token or a certificate, who need not exist.
func (c Caller) Known() bool { return c.Revision != 0 }

// State is the users and roles at one place of the log. It is never changed.
type State struct {
	enabled  bool
	revision uint64
	users    map[string]*user
	roles    map[string]*authpb.Role
}

// user is a user and what it may do. It is never changed.
type user struct {
	*authpb.User
	root        bool
	permissions func() *permissions // merged when they are first asked for
}

// New returns the state of a new cluster.
func New() *State { return &State{revision: firstRevision} }

// Enabled reports whether requests are checked at all.
func (s *State) Enabled() bool { return s.enabled }

// Revision returns how often users and roles have been changed, from 1.
func (s *State) Revision() uint64 { return s.revision }

// clone returns a copy to be changed and published.
func (s *State) clone() *State {
	n := &State{enabled: s.enabled, revision: s.revision, users: maps.Clone(s.users), roles: maps.Clone(s.roles)}
	if n.users == nil {
		n.users = make(map[string]*user)
	}
	if n.roles == nil {
		n.roles = make(map[string]*authpb.Role)
	}
	return n
}

// setUser adds a user or puts it in place of the one of its name. Its roles must have been set.
func (s *State) setUser(u *authpb.User) {
	_, root := slices.BinarySearch(u.Roles, Root)
	var roles []*authpb.Role
	for _, name := range u.Roles {
		if r := s.roles[name]; r != nil {
			roles = append(roles, r)
		}
	}
	s.users[string(u.Name)] = &user{
		User: u, root: root,
		permissions: sync.OnceValue(func() *permissions { return mergePermissions(roles) }),
	}
}

// setRole adds a role or puts it in place of the one of its name.
func (s *State) setRole(r *authpb.Role) {
	s.roles[string(r.Name)] = r
	for _, u := range s.users {
		if _, ok := slices.BinarySearch(u.Roles, string(r.Name)); ok {
			s.setUser(u.User)
		}
	}
}

// Records are the stored form of a State: what Load is given to make it again.
type Records struct {
	Enabled  bool
	Revision uint64
	Users    []*authpb.User
	Roles    []*authpb.Role
}

// Load returns the state that was stored.
func Load(r Records) (*State, error) {
	s := (&State{enabled: r.Enabled, revision: r.Revision}).clone()
	if s.revision < firstRevision {
		return nil, fmt.Errorf("auth: the revision is %d", s.revision)
	}
	for _, role := range r.Roles {
		s.roles[string(role.Name)] = role
	}
	for _, u := range r.Users {
		if !slices.IsSorted(u.Roles) {
			return nil, fmt.Errorf("auth: the roles of user %q are out of order", u.Name)
		}
		s.setUser(u)
	}
	return s, nil
}

// access is what is to be done with keys.
type access bool

const (
	reading access = false
	writing access = true
)

// CheckRead checks whether c may read the range of a request.
func (s *State) CheckRead(c Caller, key, end []byte) error { return s.check(c, reading, key, end) }

// CheckWrite checks whether c may write or delete the range of a request.
func (s *State) CheckWrite(c Caller, key, end []byte) error { return s.check(c, writing, key, end) }

func (s *State) check(c Caller, a access, key, end []byte) error {
	if !s.enabled {
		return nil
	}
	u, err := s.current(c)
	if err != nil {
		return err
	}
	if !u.may(a, key, end) {
		return ErrPermissionDenied
	}
	return nil
}

// current returns the user that c is, unless there have been changes since that was found out.
func (s *State) current(c Caller) (*user, error) {
	if !c.Known() {
		return nil, ErrUserEmpty
	}
	if c.Revision < s.revision {
		return nil, ErrOldRevision
	}
	u := s.users[c.Name]
	if u == nil {
		return nil, ErrPermissionDenied
	}
	return u, nil
}

func (u *user) may(a access, key, end []byte) bool {
	if u.root {
		return true
	}
	p := u.permissions()
	if a == writing {
		return p.write.contain(key, end)
	}
	return p.read.contain(key, end)
}

// CheckRoot checks whether c may manage the cluster. As in etcd the revision plays no part in that: a change of users and
// roles does not make the root's next one invalid.
func (s *State) CheckRoot(c Caller) error {
	if !s.enabled {
		return nil
	}
	if c.Name == "" {
		return ErrUserEmpty
	}
	u := s.users[c.Name]
	switch {
	case u == nil:
		return ErrUserNotFound
	case !u.root:
		return ErrPermissionDenied
	}
	return nil
}

// CheckKnown checks that a request names some user, as a certificate without a common name does not.
func (s *State) CheckKnown(c Caller) error {
	if s.enabled && (!c.Known() || c.Name == "") {
		return ErrUserEmpty
	}
	return nil
}

// CheckCurrent checks, after reading for c, that nothing has been changed since c was checked.
func (s *State) CheckCurrent(c Caller) error {
	if s.enabled && c.Known() && c.Revision != s.revision {
		return ErrOldRevision
	}
	return nil
}

// CheckSame checks, after reading, that nothing has been changed since the state was before, and that authentication, which
// is no change, has not been enabled.
func (s *State) CheckSame(before *State) error {
	if s.enabled && (s.revision != before.revision || !before.enabled) {
		return ErrOldRevision
	}
	return nil
}

// hasRole reports whether the user exists and has the role.
func (s *State) hasRole(name, role string) bool {
	u := s.users[name]
	return u != nil && slices.Contains(u.Roles, role)
}

// password returns the hash of a user's password. It is nil if there is no such user.
func (s *State) password(name string) (hash []byte, err error) {
	u := s.users[name]
	if u == nil {
		return nil, nil
	}
	if u.Options.GetNoPassword() {
		return nil, ErrNoPasswordUser
	}
	return bytes.Clone(u.Password), nil
}
