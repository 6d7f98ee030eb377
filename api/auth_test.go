package api

import (
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestAuthenticationIsOffAndThereAreNoUsers(t *testing.T) {
	m := startMember(t)
	auth, ctx := pb.NewAuthClient(m.conn), soon(t)
	st, err := auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
	must(t, err)
	if st.Enabled || st.AuthRevision != 1 {
		t.Errorf("status %v", st)
	}
	must(t, errOf(auth.AuthDisable(ctx, &pb.AuthDisableRequest{})))
	users, err := auth.UserList(ctx, &pb.AuthUserListRequest{})
	must(t, err)
	roles, err := auth.RoleList(ctx, &pb.AuthRoleListRequest{})
	must(t, err)
	if len(users.Users) != 0 || len(roles.Roles) != 0 {
		t.Errorf("users %v, roles %v", users, roles)
	}
	unimplemented := status.Error(codes.Unimplemented, "")
	for _, c := range []struct {
		name string
		got  error
		want error
	}{
		{"enable", errOf(auth.AuthEnable(ctx, &pb.AuthEnableRequest{})), rpctypes.ErrGRPCRootUserNotExist},
		{"authenticate", errOf(auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "u"})), rpctypes.ErrGRPCAuthNotEnabled},
		{"get a user", errOf(auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"delete a user", errOf(auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"change a password", errOf(auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"grant a role", errOf(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"revoke a role", errOf(auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "u"})), rpctypes.ErrGRPCUserNotFound},
		{"get a role", errOf(auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"delete a role", errOf(auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"grant no permission", errOf(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r"})), rpctypes.ErrGRPCPermissionNotGiven},
		{"revoke a permission", errOf(auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "r"})), rpctypes.ErrGRPCRoleNotFound},
		{"add a user", errOf(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "u"})), unimplemented},
		{"add a role", errOf(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "r"})), unimplemented},
	} {
		want := status.Convert(c.want)
		if got := status.Convert(c.got); got.Code() != want.Code() || want.Code() != codes.Unimplemented && got.Message() != want.Message() {
			t.Errorf("%s: got %v %q, want %v %q", c.name, got.Code(), got.Message(), want.Code(), want.Message())
		}
	}
}
