package requests

import (
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Users and roles of which requests speak. There is always one that does not exist, and often others.
var (
	users = []string{"root", "alice", "bob", "carol", "nobody"}
	roles = []string{"root", "r", "s", "t", "none"}
)

// User returns the name of a user, who may exist.
func (g *Generator) User() string { return pick(g, users...) }

// Role returns the name of a role, which may exist.
func (g *Generator) Role() string { return pick(g, roles...) }

// Password returns the one password that all users have.
func (g *Generator) Password() string { return "password" }

// Auth returns a request about users and roles. Authentication is more often enabled than disabled.
func (g *Generator) Auth() *pb.InternalRaftRequest {
	r := &pb.InternalRaftRequest{}
	switch n := g.rng.IntN(100); {
	case n < 5:
		r.AuthEnable = &pb.AuthEnableRequest{}
	case n < 6:
		r.AuthDisable = &pb.AuthDisableRequest{}
	case n < 9:
		r.AuthStatus = &pb.AuthStatusRequest{}
	case n < 20:
		r.AuthUserAdd = &pb.AuthUserAddRequest{Name: g.User(), Password: g.Password()}
		if g.one(30) {
			r.AuthUserAdd.Name = ""
		}
		if g.one(8) {
			r.AuthUserAdd.Options = &authpb.UserAddOptions{NoPassword: g.one(2)}
		}
	case n < 23:
		r.AuthUserDelete = &pb.AuthUserDeleteRequest{Name: g.User()}
	case n < 26:
		r.AuthUserChangePassword = &pb.AuthUserChangePasswordRequest{Name: g.User(), Password: g.Password()}
	case n < 40:
		r.AuthUserGrantRole = &pb.AuthUserGrantRoleRequest{User: g.User(), Role: g.Role()}
		if g.one(4) {
			r.AuthUserGrantRole.User, r.AuthUserGrantRole.Role = "root", "root"
		}
	case n < 44:
		r.AuthUserRevokeRole = &pb.AuthUserRevokeRoleRequest{Name: g.User(), Role: g.Role()}
	case n < 48:
		r.AuthUserGet = &pb.AuthUserGetRequest{Name: g.User()}
	case n < 50:
		r.AuthUserList = &pb.AuthUserListRequest{}
	case n < 60:
		r.AuthRoleAdd = &pb.AuthRoleAddRequest{Name: g.Role()}
		if g.one(30) {
			r.AuthRoleAdd.Name = ""
		}
	case n < 62:
		r.AuthRoleDelete = &pb.AuthRoleDeleteRequest{Role: g.Role()}
	case n < 84:
		p := &authpb.Permission{PermType: authpb.Permission_Type(g.rng.IntN(3))}
		p.Key, p.RangeEnd = g.Keys()
		if g.one(30) {
			p.Key = nil
		}
		r.AuthRoleGrantPermission = &pb.AuthRoleGrantPermissionRequest{Name: g.Role(), Perm: p}
		if g.one(30) {
			r.AuthRoleGrantPermission.Perm = nil
		}
	case n < 94:
		key, end := g.Keys()
		r.AuthRoleRevokePermission = &pb.AuthRoleRevokePermissionRequest{Role: g.Role(), Key: key, RangeEnd: end}
	case n < 98:
		r.AuthRoleGet = &pb.AuthRoleGetRequest{Role: g.Role()}
	default:
		r.AuthRoleList = &pb.AuthRoleListRequest{}
	}
	return r
}
