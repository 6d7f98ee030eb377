package auth

import (
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Users returns the names of all users in byte order.
func (s *State) Users() []string { return slices.Sorted(maps.Keys(s.users)) }

// Roles returns the names of all roles in byte order.
func (s *State) Roles() []string { return slices.Sorted(maps.Keys(s.roles)) }

// RolesOf returns the roles of a user in byte order. They must not be changed.
func (s *State) RolesOf(name string) ([]string, error) {
	u := s.users[name]
	if u == nil {
		return nil, ErrUserNotFound
	}
	return u.Roles, nil
}

// PermissionsOf returns the permissions of a role. They must not be changed.
func (s *State) PermissionsOf(role string) ([]*authpb.Permission, error) {
	r := s.roles[role]
	if r == nil {
		return nil, ErrRoleNotFound
	}
	if role == Root {
		return []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}, nil
	}
	return r.KeyPermission, nil
}

// CanLogIn checks that a user may be given a token, its password having been checked before.
func (s *State) CanLogIn(name string) error {
	if !s.enabled {
		return ErrNotEnabled
	}
	if u := s.users[name]; u == nil || u.Options.GetNoPassword() {
		return ErrAuthFailed
	}
	return nil
}
