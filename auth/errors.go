package auth

import "errors"

// The texts are those that etcd's own server logs, and of those without a gRPC status of their own, what it sends.
var (
	// ErrRootUserNotExist: authentication cannot be enabled without a user root.
	ErrRootUserNotExist = errors.New("auth: root user does not exist")
	// ErrRootRoleNotExist: authentication cannot be enabled before the user root has the role root.
	ErrRootRoleNotExist = errors.New("auth: root user does not have root role")
	// ErrUserAlreadyExist: the user to be added exists.
	ErrUserAlreadyExist = errors.New("auth: user already exists")
	// ErrUserEmpty: a user without a name, or a request without a user.
	ErrUserEmpty = errors.New("auth: user name is empty")
	// ErrUserNotFound: there is no such user.
	ErrUserNotFound = errors.New("auth: user not found")
	// ErrRoleAlreadyExist: the role to be added exists.
	ErrRoleAlreadyExist = errors.New("auth: role already exists")
	// ErrRoleNotFound: there is no such role.
	ErrRoleNotFound = errors.New("auth: role not found")
	// ErrRoleEmpty: a role without a name.
	ErrRoleEmpty = errors.New("auth: role name is empty")
	// ErrAuthFailed: the user does not exist, or the password is not right.
	ErrAuthFailed = errors.New("auth: authentication failed, invalid user ID or password")
	// ErrNoPasswordUser: the user is one that has no password.
	ErrNoPasswordUser = errors.New("auth: authentication failed, password was given for no password user")
	// ErrPermissionNotGiven: a permission is to be granted, but the request has none.
	ErrPermissionNotGiven = errors.New("auth: permission not given")
	// ErrPermissionDenied: the user may not do that.
	ErrPermissionDenied = errors.New("auth: permission denied")
	// ErrRoleNotGranted: the role to be revoked was not granted.
	ErrRoleNotGranted = errors.New("auth: role is not granted to the user")
	// ErrPermissionNotGranted: the permission to be revoked was not granted.
	ErrPermissionNotGranted = errors.New("auth: permission is not granted to the role")
	// ErrNotEnabled: nobody can log in while authentication is off.
	ErrNotEnabled = errors.New("auth: authentication is not enabled")
	// ErrOldRevision: users or roles have changed since the request was checked.
	ErrOldRevision = errors.New("auth: revision in header is old")
	// ErrInvalidToken: the token is none, or no longer one.
	ErrInvalidToken = errors.New("auth: invalid auth token")
	// ErrInvalidManagement: the change would lock everybody out, or the range of a permission is none.
	ErrInvalidManagement = errors.New("auth: invalid auth management")
	// ErrVerifyOnly: this member has only the public key of its tokens.
	ErrVerifyOnly = errors.New("auth: token signing attempted with verify-only key")
)
