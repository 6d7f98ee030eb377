package api

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/store"
	"github.com/cofferkv/coffer/watch"
)

// statuses gives every error of the layers below the status that etcd sends for it.
//
// Two of etcd's statuses are client-side errors by mistake, which gRPC sends with code Unknown; clients recognize them by
// their text.
var statuses = map[error]error{
	store.ErrMemberRemoved:              rpctypes.ErrGRPCMemberNotFound,
	store.ErrMemberNotFound:             rpctypes.ErrGRPCMemberNotFound,
	store.ErrMemberExists:               rpctypes.ErrGRPCMemberExist,
	store.ErrPeerURLExists:              rpctypes.ErrGRPCPeerURLExist,
	store.ErrNotLearner:                 rpctypes.ErrGRPCMemberNotLearner,
	store.ErrTooManyLearners:            rpctypes.ErrGRPCTooManyLearners,
	raftnode.ErrNotEnoughStartedMembers: status.Error(codes.Unknown, rpctypes.ErrMemberNotEnoughStarted.Error()),
	raftnode.ErrUnhealthy:               rpctypes.ErrGRPCUnhealthy,
	raftnode.ErrLearnerNotReady:         rpctypes.ErrGRPCLearnerNotReady,
	raftnode.ErrBadLeaderTransferee:     rpctypes.ErrGRPCBadLeaderTransferee,

	mvcc.ErrCompacted:      rpctypes.ErrGRPCCompacted,
	mvcc.ErrFutureRevision: rpctypes.ErrGRPCFutureRev,
	mvcc.ErrClosed:         rpctypes.ErrGRPCStopped,
	watch.ErrClosed:        rpctypes.ErrGRPCStopped,

	lease.ErrNotFound:    rpctypes.ErrGRPCLeaseNotFound,
	lease.ErrExists:      rpctypes.ErrGRPCLeaseExist,
	lease.ErrTTLTooLarge: rpctypes.ErrGRPCLeaseTTLTooLarge,

	store.ErrKeyNotFound:        rpctypes.ErrGRPCKeyNotFound,
	store.ErrNoSpace:            rpctypes.ErrGRPCNoSpace,
	store.ErrCorrupt:            rpctypes.ErrGRPCCorrupt,
	raftnode.ErrRequestTooLarge: rpctypes.ErrGRPCRequestTooLarge,
	raftnode.ErrTooManyRequests: status.Error(codes.Unknown, rpctypes.ErrTooManyRequests.Error()),

	auth.ErrRootUserNotExist:     rpctypes.ErrGRPCRootUserNotExist,
	auth.ErrRootRoleNotExist:     rpctypes.ErrGRPCRootRoleNotExist,
	auth.ErrUserAlreadyExist:     rpctypes.ErrGRPCUserAlreadyExist,
	auth.ErrUserEmpty:            rpctypes.ErrGRPCUserEmpty,
	auth.ErrUserNotFound:         rpctypes.ErrGRPCUserNotFound,
	auth.ErrRoleAlreadyExist:     rpctypes.ErrGRPCRoleAlreadyExist,
	auth.ErrRoleNotFound:         rpctypes.ErrGRPCRoleNotFound,
	auth.ErrRoleEmpty:            rpctypes.ErrGRPCRoleEmpty,
	auth.ErrAuthFailed:           rpctypes.ErrGRPCAuthFailed,
	auth.ErrPermissionNotGiven:   rpctypes.ErrGRPCPermissionNotGiven,
	auth.ErrPermissionDenied:     rpctypes.ErrGRPCPermissionDenied,
	auth.ErrRoleNotGranted:       rpctypes.ErrGRPCRoleNotGranted,
	auth.ErrPermissionNotGranted: rpctypes.ErrGRPCPermissionNotGranted,
	auth.ErrNotEnabled:           rpctypes.ErrGRPCAuthNotEnabled,
	auth.ErrOldRevision:          rpctypes.ErrGRPCAuthOldRevision,
	auth.ErrInvalidToken:         rpctypes.ErrGRPCInvalidAuthToken,
	auth.ErrInvalidManagement:    rpctypes.ErrGRPCInvalidAuthMgmt,
	// auth.ErrNoPasswordUser and auth.ErrVerifyOnly have no status of their own in etcd either.

	raftnode.ErrNoLeader:                   rpctypes.ErrGRPCNoLeader,
	raftnode.ErrNotLeader:                  rpctypes.ErrGRPCNotLeader,
	raftnode.ErrLeaderChanged:              rpctypes.ErrGRPCLeaderChanged,
	raftnode.ErrCanceled:                   rpctypes.ErrGRPCCanceled,
	raftnode.ErrStopped:                    rpctypes.ErrGRPCStopped,
	raftnode.ErrTimeout:                    rpctypes.ErrGRPCTimeout,
	raftnode.ErrTimeoutDueToLeaderFail:     rpctypes.ErrGRPCTimeoutDueToLeaderFail,
	raftnode.ErrTimeoutDueToConnectionLost: rpctypes.ErrGRPCTimeoutDueToConnectionLost,
	raftnode.ErrTimeoutWaitAppliedIndex:    rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
}

// toStatus turns an error of the layers below into what is sent to the client. The errors of contexts are left to gRPC,
// which gives them their codes.
func toStatus(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := statuses[e]; ok {
			return s
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// leftByClient tells a stream that its client has left, which is no news, from one that failed.
func leftByClient(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded:
		return true
	case codes.Unavailable:
		m := s.Message()
		return m == "client disconnected" || strings.HasPrefix(m, "stream error: ") && strings.HasSuffix(m, "; CANCEL")
	}
	return false
}
