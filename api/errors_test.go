package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/store"
)

func TestErrorsHaveEtcdsCodesAndTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{mvcc.ErrCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{mvcc.ErrFutureRevision, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{store.ErrNoSpace, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{store.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster"},
		{store.ErrKeyNotFound, codes.InvalidArgument, "etcdserver: key not found"},
		{lease.ErrNotFound, codes.NotFound, "etcdserver: requested lease not found"},
		{lease.ErrExists, codes.FailedPrecondition, "etcdserver: lease already exists"},
		{lease.ErrTTLTooLarge, codes.OutOfRange, "etcdserver: too large lease TTL"},
		{store.ErrMemberNotFound, codes.NotFound, "etcdserver: member not found"},
		{store.ErrMemberRemoved, codes.NotFound, "etcdserver: member not found"},
		{store.ErrMemberExists, codes.FailedPrecondition, "etcdserver: member ID already exist"},
		{store.ErrPeerURLExists, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{store.ErrNotLearner, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
		{store.ErrTooManyLearners, codes.FailedPrecondition, "etcdserver: too many learner members in cluster"},
		{raftnode.ErrLearnerNotReady, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{raftnode.ErrNotEnoughStartedMembers, codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"},
		{raftnode.ErrTooManyRequests, codes.Unknown, "etcdserver: too many requests"},
		{raftnode.ErrRequestTooLarge, codes.InvalidArgument, "etcdserver: request is too large"},
		{raftnode.ErrNoLeader, codes.Unavailable, "etcdserver: no leader"},
		{raftnode.ErrNotLeader, codes.FailedPrecondition, "etcdserver: not leader"},
		{raftnode.ErrLeaderChanged, codes.Unavailable, "etcdserver: leader changed"},
		{raftnode.ErrBadLeaderTransferee, codes.FailedPrecondition, "etcdserver: bad leader transferee"},
		{raftnode.ErrStopped, codes.Unavailable, "etcdserver: server stopped"},
		{raftnode.ErrUnhealthy, codes.Unavailable, "etcdserver: unhealthy cluster"},
		{raftnode.ErrCanceled, codes.Canceled, "etcdserver: request canceled"},
		{raftnode.ErrTimeout, codes.Unavailable, "etcdserver: request timed out"},
		{raftnode.ErrTimeoutDueToLeaderFail, codes.Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"},
		{raftnode.ErrTimeoutDueToConnectionLost, codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost"},
		{raftnode.ErrTimeoutWaitAppliedIndex, codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long"},
		{raftnode.ErrTimeoutLeaderTransfer, codes.Unknown, "etcdserver: request timed out, leader transfer took too long"},
		{errors.New("something else"), codes.Unknown, "something else"},
		{fmt.Errorf("reading: %w", mvcc.ErrCompacted), codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{rpctypes.ErrGRPCEmptyKey, codes.InvalidArgument, "etcdserver: key is not provided"},
	} {
		s, ok := status.FromError(toStatus(c.err))
		if !ok || s.Code() != c.code || s.Message() != c.text {
			t.Errorf("%v became %v %q, want %v %q", c.err, s.Code(), s.Message(), c.code, c.text)
		}
	}
}

// Clients recognize errors by their text: whatever has a name in rpctypes must come back as that.
func TestClientsRecognizeEveryErrorInTheTable(t *testing.T) {
	for err, sent := range statuses {
		s, ok := status.FromError(sent)
		if !ok {
			t.Errorf("%v is sent as %v, which is no status", err, sent)
			continue
		}
		if s.Code() == codes.Canceled || errors.Is(err, raftnode.ErrTimeoutWaitAppliedIndex) || errors.Is(err, auth.ErrPermissionNotGiven) {
			continue // rpctypes has no client-side error for these
		}
		if _, ok := rpctypes.Error(sent).(rpctypes.EtcdError); !ok {
			t.Errorf("%v is sent as %q, which no client knows", err, s.Message())
		}
	}
}

func TestErrorsOfContextsAreLeftToGRPC(t *testing.T) {
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, fmt.Errorf("x: %w", context.Canceled)} {
		if got := toStatus(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if c := codeOf(context.Canceled); c != codes.Canceled {
		t.Errorf("code %v", c)
	}
	if c := codeOf(context.DeadlineExceeded); c != codes.DeadlineExceeded {
		t.Errorf("code %v", c)
	}
}
