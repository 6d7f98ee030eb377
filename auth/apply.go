package auth

import (
	"bytes"
	"encoding/base64"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Writer stores what a command changes.
type Writer interface {
	PutUser(*authpb.User)
	DeleteUser(name string)
	PutRole(*authpb.Role)
	DeleteRole(name string)
	// PutStatus stores whether authentication is enabled, and the revision.
	PutStatus(enabled bool, revision uint64)
}

// change is a command under way: a copy of the state, and where its changes are stored.
type change struct {
	*State
	w Writer
}

func (s *State) change(w Writer) change { return change{s.clone(), w} }

// done raises the revision and returns the state to be published.
func (c change) done() (*State, error) {
	c.revision++
	c.w.PutStatus(c.enabled, c.revision)
	return c.State, nil
}

func (c change) putUser(u *authpb.User) {
	c.setUser(u)
	c.w.PutUser(u)
}

func (c change) putRole(r *authpb.Role) {
	c.setRole(r)
	c.w.PutRole(r)
}

// The commands below return the state after them, which is s if they change nothing. An error leaves nothing behind. What
// they take from a request they copy.

// Enable switches authentication on. It is not a change of users and roles and does not raise the revision.
func (s *State) Enable(w Writer) (*State, error) {
	if s.enabled {
		return s, nil
	}
	root := s.users[Root]
	if root == nil {
		return nil, ErrRootUserNotExist
	}
	if !root.root {
		return nil, ErrRootRoleNotExist
	}
	n := s.clone()
	n.enabled = true
	w.PutStatus(true, n.revision)
	return n, nil
}

// Disable switches authentication off.
func (s *State) Disable(w Writer) (*State, error) {
	if !s.enabled {
		return s, nil
	}
	c := s.change(w)
	c.enabled = false
	return c.done()
}

// AddUser adds a user without roles. The request has the password's hash instead of the password.
func (s *State) AddUser(w Writer, r *pb.AuthUserAddRequest) (*State, error) {
	if r.Name == "" {
		return nil, ErrUserEmpty
	}
	if s.users[r.Name] != nil {
		return nil, ErrUserAlreadyExist
	}
	u := &authpb.User{Name: []byte(r.Name), Options: &authpb.UserAddOptions{NoPassword: r.Options.GetNoPassword()}}
	if !u.Options.NoPassword {
		var err error
		if u.Password, err = decodeHash(r.HashedPassword); err != nil {
			return nil, err
		}
	}
	c := s.change(w)
	c.putUser(u)
	return c.done()
}

func decodeHash(s string) ([]byte, error) {
	hash, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, ErrNoPasswordUser // what etcd makes of it
	}
	return hash, nil
}

// DeleteUser deletes a user. Root stays while authentication is enabled.
func (s *State) DeleteUser(w Writer, name string) (*State, error) {
	if s.enabled && name == Root {
		return nil, ErrInvalidManagement
	}
	if s.users[name] == nil {
		return nil, ErrUserNotFound
	}
	c := s.change(w)
	delete(c.users, name)
	w.DeleteUser(name)
	return c.done()
}

// ChangePassword changes a password. A user without one stays so.
func (s *State) ChangePassword(w Writer, r *pb.AuthUserChangePasswordRequest) (*State, error) {
	old := s.users[r.Name]
	if old == nil {
		return nil, ErrUserNotFound
	}
	u := &authpb.User{Name: old.Name, Roles: old.Roles, Options: old.Options}
	if !u.Options.GetNoPassword() {
		var err error
		if u.Password, err = decodeHash(r.HashedPassword); err != nil {
			return nil, err
		}
	}
	c := s.change(w)
	c.putUser(u)
	return c.done()
}

// withRoles returns a copy of u with other roles.
func withRoles(u *authpb.User, roles []string) *authpb.User {
	return &authpb.User{Name: u.Name, Password: u.Password, Options: u.Options, Roles: roles}
}

func without(roles []string, role string) []string {
	return slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == role })
}

// GrantRole grants a role to a user. The role root need not exist.
func (s *State) GrantRole(w Writer, name, role string) (*State, error) {
	u := s.users[name]
	if u == nil {
		return nil, ErrUserNotFound
	}
	if role != Root && s.roles[role] == nil {
		return nil, ErrRoleNotFound
	}
	at, granted := slices.BinarySearch(u.Roles, role)
	if granted {
		return s, nil
	}
	c := s.change(w)
	c.putUser(withRoles(u.User, slices.Insert(slices.Clone(u.Roles), at, role)))
	return c.done()
}

// RevokeRole takes a role from a user. Root keeps its own while authentication is enabled.
func (s *State) RevokeRole(w Writer, name, role string) (*State, error) {
	if s.enabled && name == Root && role == Root {
		return nil, ErrInvalidManagement
	}
	u := s.users[name]
	if u == nil {
		return nil, ErrUserNotFound
	}
	left := without(u.Roles, role)
	if len(left) == len(u.Roles) {
		return nil, ErrRoleNotGranted
	}
	c := s.change(w)
	c.putUser(withRoles(u.User, left))
	return c.done()
}

// AddRole adds a role without permissions.
func (s *State) AddRole(w Writer, name string) (*State, error) {
	if name == "" {
		return nil, ErrRoleEmpty
	}
	if s.roles[name] != nil {
		return nil, ErrRoleAlreadyExist
	}
	c := s.change(w)
	c.putRole(&authpb.Role{Name: []byte(name)})
	return c.done()
}

// DeleteRole deletes a role and takes it from all users. The role root stays while authentication is enabled.
func (s *State) DeleteRole(w Writer, name string) (*State, error) {
	if s.enabled && name == Root {
		return nil, ErrInvalidManagement
	}
	if s.roles[name] == nil {
		return nil, ErrRoleNotFound
	}
	c := s.change(w)
	delete(c.roles, name)
	w.DeleteRole(name)
	for _, u := range s.sortedUsers() {
		if left := without(u.Roles, name); len(left) != len(u.Roles) {
			c.putUser(withRoles(u.User, left))
		}
	}
	return c.done()
}

// GrantPermission gives a role a permission, or changes that which it has for the range.
func (s *State) GrantPermission(w Writer, name string, p *authpb.Permission) (*State, error) {
	if p == nil {
		return nil, ErrPermissionNotGiven
	}
	if !validRange(p.Key, p.RangeEnd) {
		return nil, ErrInvalidManagement
	}
	old := s.roles[name]
	if old == nil {
		return nil, ErrRoleNotFound
	}
	p = &authpb.Permission{PermType: p.PermType, Key: bytes.Clone(p.Key), RangeEnd: bytes.Clone(p.RangeEnd)}
	perms := slices.Clone(old.KeyPermission)
	at := sort.Search(len(perms), func(i int) bool { return bytes.Compare(perms[i].Key, p.Key) >= 0 })
	if at < len(perms) && sameRange(perms[at], p.Key, p.RangeEnd) {
		perms[at] = p
	} else {
		// Only the first permission of a key is found to be the same, and the order of those that begin with the same key
		// is whatever sort.Sort makes of it: both can be seen by clients, and are as in etcd.
		perms = append(perms, p)
		sort.Sort(byKey(perms))
	}
	c := s.change(w)
	c.putRole(&authpb.Role{Name: old.Name, KeyPermission: perms})
	return c.done()
}

func sameRange(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

type byKey []*authpb.Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// RevokePermission takes from a role what it may do with a range.
func (s *State) RevokePermission(w Writer, name string, key, end []byte) (*State, error) {
	old := s.roles[name]
	if old == nil {
		return nil, ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(old.KeyPermission), func(p *authpb.Permission) bool { return sameRange(p, key, end) })
	if len(left) == len(old.KeyPermission) {
		return nil, ErrPermissionNotGranted
	}
	c := s.change(w)
	c.putRole(&authpb.Role{Name: old.Name, KeyPermission: left})
	return c.done()
}

func (s *State) sortedUsers() []*user {
	users := make([]*user, 0, len(s.users))
	for _, name := range s.Users() {
		users = append(users, s.users[name])
	}
	return users
}
