package store

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/mvcc"
)

// Records of users and roles.
const (
	spaceAuth = "auth"      // nameAuthStatus -> enabled (1 byte), revision (8 bytes)
	spaceUser = "auth-user" // name -> authpb.User
	spaceRole = "auth-role" // name -> authpb.Role

	nameAuthStatus = "status"
)

func loadAuth(db *mvcc.DB) (*auth.State, error) {
	r := auth.Records{Revision: auth.New().Revision()}
	load := func(space string, take func(key, value []byte) error) error {
		if err := db.RangeMeta(space, take); err != nil {
			return fmt.Errorf("record space %s: %w", space, err)
		}
		return nil
	}
	err := load(spaceAuth, func(key, value []byte) error {
		if string(key) != nameAuthStatus || len(value) != 9 {
			return fmt.Errorf("unknown record %q of %d bytes", key, len(value))
		}
		r.Enabled, r.Revision = value[0] != 0, binary.BigEndian.Uint64(value[1:])
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = load(spaceUser, func(key, value []byte) error {
		u := &authpb.User{}
		if err := proto.Unmarshal(value, u); err != nil {
			return fmt.Errorf("decoding a user: %w", err)
		}
		r.Users = append(r.Users, u)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = load(spaceRole, func(key, value []byte) error {
		role := &authpb.Role{}
		if err := proto.Unmarshal(value, role); err != nil {
			return fmt.Errorf("decoding a role: %w", err)
		}
		r.Roles = append(r.Roles, role)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return auth.Load(r)
}

// Auth returns the users and roles as of the last applied entry.
func (s *Store) Auth() *auth.State { return s.auth.Load() }

// publishAuth makes a state that of readers.
func (s *Store) publishAuth(n *auth.State) {
	if s.auth.Swap(n) != n {
		authRevision.Set(float64(n.Revision()))
	}
}

// Tokens returns the tokens of this member's users.
func (s *Store) Tokens() *auth.Tokens { return s.tokens }

// batch stores what commands on users and roles change.
var _ auth.Writer = (*batch)(nil)

func (b *batch) PutUser(u *authpb.User) { b.setMeta(spaceUser, u.Name, u) }
func (b *batch) DeleteUser(name string) { b.mv.DeleteMeta(spaceUser, []byte(name)) }
func (b *batch) PutRole(r *authpb.Role) { b.setMeta(spaceRole, r.Name, r) }
func (b *batch) DeleteRole(name string) { b.mv.DeleteMeta(spaceRole, []byte(name)) }
func (b *batch) PutStatus(on bool, r uint64) {
	value := make([]byte, 1, 9)
	if on {
		value[0] = 1
	}
	b.mv.SetMeta(spaceAuth, []byte(nameAuthStatus), binary.BigEndian.AppendUint64(value, r))
}

// authorize checks whether the caller of a request may have it applied, in the state that the requests before it left.
func (b *batch) authorize(r *pb.InternalRaftRequest) error {
	if !b.auth.Enabled() {
		return nil
	}
	caller := auth.Caller{Name: r.Header.GetUsername(), Revision: r.Header.GetAuthRevision()}
	return b.auth.Authorize(caller, b.s.lessor, r)
}

// setAuth makes n the state, if there was no error.
func (b *batch) setAuth(n *auth.State, err error) error {
	if err == nil {
		b.auth = n
	}
	return err
}

// applyAuth applies a request about users and roles. Tokens are ended here and not when the batch is committed, so that
// nobody sees the new state with the old tokens. It reports whether r is such a request.
func (b *batch) applyAuth(r *pb.InternalRaftRequest) (resp proto.Message, err error, ok bool) {
	h := b.header()
	switch {
	case r.Authenticate != nil:
		resp, err := response(b.applyAuthenticate(r.Authenticate))
		return resp, err, true
	case r.AuthStatus != nil:
		return &pb.AuthStatusResponse{Header: h, Enabled: b.auth.Enabled(), AuthRevision: b.auth.Revision()}, nil, true
	case r.AuthEnable != nil:
		resp, err = &pb.AuthEnableResponse{Header: h}, b.setAuth(b.auth.Enable(b))
	case r.AuthDisable != nil:
		was := b.auth.Enabled()
		resp, err = &pb.AuthDisableResponse{Header: h}, b.setAuth(b.auth.Disable(b))
		if was {
			b.s.tokens.RevokeAll()
		}
	case r.AuthUserAdd != nil:
		resp, err = &pb.AuthUserAddResponse{Header: h}, b.setAuth(b.auth.AddUser(b, r.AuthUserAdd))
	case r.AuthUserDelete != nil:
		name := r.AuthUserDelete.Name
		resp, err = &pb.AuthUserDeleteResponse{Header: h}, b.setAuth(b.auth.DeleteUser(b, name))
		if err == nil {
			b.s.tokens.RevokeUser(name)
		}
	case r.AuthUserChangePassword != nil:
		resp, err = &pb.AuthUserChangePasswordResponse{Header: h}, b.setAuth(b.auth.ChangePassword(b, r.AuthUserChangePassword))
		if err == nil {
			b.s.tokens.RevokeUser(r.AuthUserChangePassword.Name)
		}
	case r.AuthUserGrantRole != nil:
		q := r.AuthUserGrantRole
		resp, err = &pb.AuthUserGrantRoleResponse{Header: h}, b.setAuth(b.auth.GrantRole(b, q.User, q.Role))
	case r.AuthUserRevokeRole != nil:
		q := r.AuthUserRevokeRole
		resp, err = &pb.AuthUserRevokeRoleResponse{Header: h}, b.setAuth(b.auth.RevokeRole(b, q.Name, q.Role))
	case r.AuthUserGet != nil:
		var roles []string
		roles, err = b.auth.RolesOf(r.AuthUserGet.Name)
		resp = &pb.AuthUserGetResponse{Header: h, Roles: roles}
	case r.AuthUserList != nil:
		resp = &pb.AuthUserListResponse{Header: h, Users: b.auth.Users()}
	case r.AuthRoleAdd != nil:
		resp, err = &pb.AuthRoleAddResponse{Header: h}, b.setAuth(b.auth.AddRole(b, r.AuthRoleAdd.Name))
	case r.AuthRoleDelete != nil:
		resp, err = &pb.AuthRoleDeleteResponse{Header: h}, b.setAuth(b.auth.DeleteRole(b, r.AuthRoleDelete.Role))
	case r.AuthRoleGrantPermission != nil:
		q := r.AuthRoleGrantPermission
		resp, err = &pb.AuthRoleGrantPermissionResponse{Header: h}, b.setAuth(b.auth.GrantPermission(b, q.Name, q.Perm))
	case r.AuthRoleRevokePermission != nil:
		q := r.AuthRoleRevokePermission
		resp, err = &pb.AuthRoleRevokePermissionResponse{Header: h}, b.setAuth(b.auth.RevokePermission(b, q.Role, q.Key, q.RangeEnd))
	case r.AuthRoleGet != nil:
		var perms []*authpb.Permission
		perms, err = b.auth.PermissionsOf(r.AuthRoleGet.Role)
		resp = &pb.AuthRoleGetResponse{Header: h, Perm: perms}
	case r.AuthRoleList != nil:
		resp = &pb.AuthRoleListResponse{Header: h, Roles: b.auth.Roles()}
	default:
		return nil, nil, false
	}
	if err != nil {
		resp = nil
	}
	return resp, err, true
}

// applyAuthenticate gives a user whose password the proposer has found to be right its token, if that is one that all
// members have to know.
func (b *batch) applyAuthenticate(r *pb.InternalAuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := b.auth.CanLogIn(r.Name); err != nil {
		return nil, err
	}
	return &pb.AuthenticateResponse{Header: b.header(), Token: b.s.tokens.Assign(r.SimpleToken, b.index, r.Name)}, nil
}
