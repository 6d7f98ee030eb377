package api

import (
	"context"
	"net"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/identity"
)

// authServer manages users and roles and lets users log in. As in etcd all its requests go through the log, those that only
// ask too.
type authServer struct {
	*API
	pb.UnsafeAuthServer
}

var _ pb.AuthServer = authServer{}

type withHeader interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}

// ask proposes a request about users and roles. What changes them is logged.
func ask[R withHeader](ctx context.Context, s authServer, r *pb.InternalRaftRequest, what ...zap.Field) (R, error) {
	resp, err := propose[R](ctx, s.API, r)
	if err != nil {
		var none R
		return none, err
	}
	s.fill(resp.GetHeader())
	if len(what) > 0 {
		s.log.Info("changed users and roles", append(what, zap.String("by", r.Header.GetUsername()),
			zap.Stringer("caller", identity.FromContext(ctx)), zap.Uint64("auth-revision", s.store.Auth().Revision()))...)
	}
	return resp, nil
}

func change(request string) zap.Field { return zap.String("change", request) }
func userName(name string) zap.Field  { return zap.String("user-name", name) }
func roleName(name string) zap.Field  { return zap.String("role-name", name) }

func (s authServer) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return ask[*pb.AuthStatusResponse](ctx, s, &pb.InternalRaftRequest{AuthStatus: r})
}

func (s authServer) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return ask[*pb.AuthEnableResponse](ctx, s, &pb.InternalRaftRequest{AuthEnable: r}, change("enabled authentication"))
}

func (s authServer) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return ask[*pb.AuthDisableResponse](ctx, s, &pb.InternalRaftRequest{AuthDisable: r}, change("disabled authentication"))
}

// Authenticate checks a password and returns a token. The password is checked first, and the login proposed without it; if
// users or roles have changed meanwhile, perhaps the password, all is done again.
func (s authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := s.node.ReadIndex(ctx); err != nil {
		return nil, toStatus(err)
	}
	tokens := s.store.Tokens()
	for {
		revision, err := s.passwords.Check(ctx, s.store.Auth(), r.Name, r.Password)
		if err != nil {
			return nil, s.loginFailed(ctx, r.Name, err)
		}
		s.logins.Succeeded(r.Name, addressOf(ctx))
		resp, err := proposeAs[*pb.AuthenticateResponse](ctx, s.API, auth.Caller{}, &pb.InternalRaftRequest{
			Authenticate: &pb.InternalAuthenticateRequest{Name: r.Name, SimpleToken: tokens.Draw()},
		})
		if err != nil {
			return nil, err
		}
		if revision != s.store.Auth().Revision() {
			s.log.Info("users or roles changed during a login; checking the password again")
			continue
		}
		token, err := tokens.Issue(resp.Token, r.Name, revision)
		if err != nil {
			return nil, toStatus(err)
		}
		out := &pb.AuthenticateResponse{Header: resp.Header, Token: token}
		s.fill(out.Header)
		return out, nil
	}
}

// loginFailed records that a login failed, and returns when that may be answered.
func (s authServer) loginFailed(ctx context.Context, name string, err error) error {
	if err != auth.ErrAuthFailed && err != auth.ErrNoPasswordUser {
		return toStatus(err)
	}
	user := name
	if _, unknown := s.store.Auth().RolesOf(name); unknown != nil {
		name = "(unknown)" // it may be a password in the wrong place
	}
	s.log.Warn("invalid authentication was requested", userName(name), zap.String("remote", addressOf(ctx)), zap.Error(err))
	s.logins.Failed(ctx, s.stop, user, addressOf(ctx))
	return toStatus(err)
}

// addressOf returns where a request came from, without the port.
func addressOf(ctx context.Context) string {
	addr := identity.FromContext(ctx).RemoteAddr
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

func (s authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	password := r.Password
	r.Password, r.HashedPassword = "", ""
	if !r.Options.GetNoPassword() {
		var err error
		if r.HashedPassword, err = s.hash(ctx, password); err != nil {
			return nil, err
		}
	}
	return ask[*pb.AuthUserAddResponse](ctx, s, &pb.InternalRaftRequest{AuthUserAdd: r}, change("added a user"), userName(r.Name))
}

func (s authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	password := r.Password
	r.Password, r.HashedPassword = "", "" // a hash of the client's own could cost whatever it says to compare with
	if password != "" {
		var err error
		if r.HashedPassword, err = s.hash(ctx, password); err != nil {
			return nil, err
		}
	}
	return ask[*pb.AuthUserChangePasswordResponse](ctx, s, &pb.InternalRaftRequest{AuthUserChangePassword: r},
		change("changed a password"), userName(r.Name))
}

// hash hashes a password for who may set it: for others that is too much work.
func (s authServer) hash(ctx context.Context, password string) (string, error) {
	if err := s.permitRoot(ctx); err != nil {
		return "", err
	}
	hash, err := s.passwords.Hash(ctx, password)
	return hash, toStatus(err)
}

func (s authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return ask[*pb.AuthUserDeleteResponse](ctx, s, &pb.InternalRaftRequest{AuthUserDelete: r}, change("deleted a user"), userName(r.Name))
}

func (s authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return ask[*pb.AuthUserGrantRoleResponse](ctx, s, &pb.InternalRaftRequest{AuthUserGrantRole: r},
		change("granted a role"), userName(r.User), roleName(r.Role))
}

func (s authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return ask[*pb.AuthUserRevokeRoleResponse](ctx, s, &pb.InternalRaftRequest{AuthUserRevokeRole: r},
		change("revoked a role"), userName(r.Name), roleName(r.Role))
}

func (s authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return ask[*pb.AuthUserGetResponse](ctx, s, &pb.InternalRaftRequest{AuthUserGet: r})
}

func (s authServer) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return ask[*pb.AuthUserListResponse](ctx, s, &pb.InternalRaftRequest{AuthUserList: r})
}

func (s authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return ask[*pb.AuthRoleAddResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleAdd: r}, change("added a role"), roleName(r.Name))
}

func (s authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return ask[*pb.AuthRoleDeleteResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleDelete: r}, change("deleted a role"), roleName(r.Role))
}

func (s authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return ask[*pb.AuthRoleGrantPermissionResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleGrantPermission: r},
		change("granted a permission"), roleName(r.Name), zap.Stringer("permission", r.Perm.GetPermType()))
}

func (s authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return ask[*pb.AuthRoleRevokePermissionResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleRevokePermission: r},
		change("revoked a permission"), roleName(r.Role))
}

func (s authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return ask[*pb.AuthRoleGetResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleGet: r})
}

func (s authServer) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return ask[*pb.AuthRoleListResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleList: r})
}
