package api

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestStreamsEndAfterThreeElectionTimeoutsWithoutALeader(t *testing.T) {
	var l leaderless
	ctx, cancel := context.WithCancelCause(context.Background())
	l.add(cancel)
	gone, cancelGone := context.WithCancelCause(context.Background())
	l.add(cancelGone)()

	ticks, stop, stopped := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.watchLeader(func() bool { return false }, ticks, stop)
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
}

func TestALeaderInBetweenRenewsThePatience(t *testing.T) {
	var l leaderless
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	l.add(cancel)

	seen := []bool{false, false, true, false, false}
	asked := make(chan bool)
	ticks, stop, stopped := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.watchLeader(func() bool { return <-asked }, ticks, stop)
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
