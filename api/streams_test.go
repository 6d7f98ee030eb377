package api

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestStreamsEndAfterThreeElectionTimeoutsWithoutALeader(t *testing.T) {
	var s streams
	ctx, cancel := context.WithCancelCause(context.Background())
	s.add(cancel, true)
	gone, cancelGone := context.WithCancelCause(context.Background())
	s.add(cancelGone, true)()

	other, cancelOther := context.WithCancelCause(context.Background())
	s.add(cancelOther, false)
	ticks, stop, stopped := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.watchLeader(func() bool { return false }, ticks, stop)
	}()
	for range leaderlessLimit {
		ticks <- time.Now()
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); cause != rpctypes.ErrGRPCNoLeader {
		t.Errorf("the stream ended with %v", cause)
	}
	close(stop)
	<-stopped
	if gone.Err() != nil {
		t.Error("a stream that had ended by itself was ended again")
	}
	if other.Err() != nil {
		t.Error("a stream that needs no leader was ended")
	}
	s.stop()
	if cause := context.Cause(other); cause != rpctypes.ErrGRPCStopped {
		t.Errorf("when the member stopped, a stream ended with %v", cause)
	}
	late, cancelLate := context.WithCancelCause(context.Background())
	s.add(cancelLate, false)()
	if cause := context.Cause(late); cause != rpctypes.ErrGRPCStopped {
		t.Errorf("a stream that came after that ended with %v", cause)
	}
}

func TestALeaderInBetweenRenewsThePatience(t *testing.T) {
	var s streams
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s.add(cancel, true)

	seen := []bool{false, false, true, false, false}
	asked := make(chan bool)
	ticks, stop, stopped := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.watchLeader(func() bool { return <-asked }, ticks, stop)
	}()
	for _, leader := range seen {
		ticks <- time.Now()
		asked <- leader
	}
	close(stop)
	<-stopped
	if ctx.Err() != nil {
		t.Error("the stream ended although there was no run of three misses")
	}
}
