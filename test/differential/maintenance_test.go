package differential

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestMaintenanceOfOneMemberAnswersAsEtcds compares what a member that is
// alone says of leaders, downgrades, alarms and hashes.
func TestMaintenanceOfOneMemberAnswersAsEtcds(t *testing.T) {
	sameStory(t, func(c *story) {
		ctx := t.Context()
		maint := c.side.maint
		status, err := maint.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		move := func(what string, to uint64) {
			say[*pb.MoveLeaderResponse](c, what)(maint.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: to}))
		}
		move("move the leader to itself", status.Leader)
		move("move the leader to nobody", 0)
		move("move the leader to a stranger", 0xbad)

		downgrade := func(what string, action pb.DowngradeRequest_DowngradeAction, version string) {
			say[*pb.DowngradeResponse](c, what)(maint.Downgrade(ctx, &pb.DowngradeRequest{Action: action, Version: version}))
		}
		// The cluster version is decided a moment after the start.
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if _, err := maint.Downgrade(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"}); err == nil {
				break
			}
		}
		for _, version := range []string{"3.6.0", "3.6", "3.6.9", "3.5.0", "3.7.0", "3.8.0", "2.6.0", "four", ""} {
			downgrade("validate "+version, pb.DowngradeRequest_VALIDATE, version)
		}
		downgrade("cancel nothing", pb.DowngradeRequest_CANCEL, "")
		downgrade("enable 3.5.0", pb.DowngradeRequest_ENABLE, "3.5.0")
		downgrade("enable 3.6.0", pb.DowngradeRequest_ENABLE, "3.6.0")
		downgrade("enable 3.6.0 again", pb.DowngradeRequest_ENABLE, "3.6.0")
		downgrade("validate 3.6.0 meanwhile", pb.DowngradeRequest_VALIDATE, "3.6.0")
		downgrade("cancel", pb.DowngradeRequest_CANCEL, "")
		downgrade("of no kind", 9, "3.6.0")

		for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			for _, action := range []pb.AlarmRequest_AlarmAction{
				pb.AlarmRequest_GET, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE, pb.AlarmRequest_DEACTIVATE,
			} {
				say[*pb.AlarmResponse](c, action.String())(maint.Alarm(ctx, &pb.AlarmRequest{Action: action, Alarm: alarm, MemberID: 5}))
				say[*pb.PutResponse](c, "put")(c.side.kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}))
			}
		}
		for _, rev := range []int64{0, 1, 2, -1, 99} {
			say[*pb.HashKVResponse](c, "hash")(maint.HashKV(ctx, &pb.HashKVRequest{Revision: rev}))
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		say[*pb.DefragmentResponse](c, "defragment for nobody")(maint.Defragment(gone, &pb.DefragmentRequest{}))
		say[*pb.DefragmentResponse](c, "defragment")(maint.Defragment(ctx, &pb.DefragmentRequest{}))
	})
}
