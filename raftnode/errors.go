package raftnode

import "errors"

// Errors of requests that never reached the state machine, or whose outcome
// this member cannot tell. The texts are those etcd's own server logs; api
// turns them into gRPC statuses.
var (
	// ErrStopped: the member is stopping or has stopped. A request that was
	// under way may still take effect.
	ErrStopped = errors.New("etcdserver: server stopped")
	// ErrCanceled: the caller gave up. The request may still take effect.
	ErrCanceled = errors.New("etcdserver: request cancelled")
	// ErrTimeout: no outcome within the request timeout. The request may still
	// take effect.
	ErrTimeout = errors.New("etcdserver: request timed out")
	// ErrTimeoutDueToLeaderFail is ErrTimeout for a request that was sent while
	// the previous leader was failing.
	ErrTimeoutDueToLeaderFail = errors.New("etcdserver: request timed out, possibly due to previous leader failure")
	// ErrTimeoutDueToConnectionLost is ErrTimeout while this member was cut off
	// from the leader, or as leader from a quorum.
	ErrTimeoutDueToConnectionLost = errors.New("etcdserver: request timed out, possibly due to connection lost")
	// ErrTimeoutLeaderTransfer: the new leader did not take over in time.
	ErrTimeoutLeaderTransfer = errors.New("etcdserver: request timed out, leader transfer took too long")
	// ErrTimeoutWaitAppliedIndex: what is committed was not applied in time.
	ErrTimeoutWaitAppliedIndex = errors.New("etcdserver: request timed out, waiting for the applied index took too long")
	// ErrLeaderChanged: the leader changed during a linearizable read.
	ErrLeaderChanged = errors.New("etcdserver: leader changed")
	// ErrNoLeader: the cluster has no leader.
	ErrNoLeader = errors.New("etcdserver: no leader")
	// ErrNotLeader: only the leader can do this, and this member is not it.
	ErrNotLeader = errors.New("etcdserver: not leader")
	// ErrRequestTooLarge: the request is larger than Options.MaxRequestBytes.
	ErrRequestTooLarge = errors.New("etcdserver: request is too large")
	// ErrTooManyRequests: applying has fallen too far behind committing.
	ErrTooManyRequests = errors.New("etcdserver: too many requests")
	// ErrNotEnoughStartedMembers: the change would leave a cluster in which
	// the members that have started are no quorum.
	ErrNotEnoughStartedMembers = errors.New("etcdserver: re-configuration failed due to not enough started members")
	// ErrUnhealthy: the change could cost the cluster its quorum, as too few
	// members have been connected for long enough.
	ErrUnhealthy = errors.New("etcdserver: unhealthy cluster")
	// ErrLearnerNotReady: a learner is promoted once it has caught up.
	ErrLearnerNotReady = errors.New("etcdserver: can only promote a learner member which is in sync with leader")
	// ErrBadLeaderTransferee: leadership can only go to a voting member.
	ErrBadLeaderTransferee = errors.New("etcdserver: bad leader transferee")
	// ErrRemoved is what Err returns after this member has been removed from
	// the cluster.
	ErrRemoved = errors.New("the member has been permanently removed from the cluster")
)
