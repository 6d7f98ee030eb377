package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/cofferpb"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/seal"
)

// Certificate is one that the member shows to others or checks them by.
type Certificate struct {
	File     string // "" for one that the member made for itself
	NotAfter time.Time
}

// certificateNotice is how long before the end of a certificate the status warns of it.
const certificateNotice = 30 * 24 * time.Hour

// memberServer sums up what an operator should look at.
type memberServer struct {
	*API
	cofferpb.UnsafeMemberServer
}

var _ cofferpb.MemberServer = memberServer{}

func (s memberServer) Status(ctx context.Context, _ *cofferpb.StatusRequest) (*cofferpb.StatusResponse, error) {
	if err := s.permitRoot(ctx); err != nil {
		return nil, err
	}
	resp := &cofferpb.StatusResponse{
		ClusterId: s.o.ClusterID, MemberId: s.o.MemberID, Version: s.o.Version, Seal: cofferpb.SealState_SEAL_STATE_OPEN,
		StartedUnix: s.started.Unix(), LastSnapshotUnix: s.lastSnapshot.Load(),
	}
	for _, m := range s.store.Members() {
		if m.ID == s.o.MemberID {
			resp.Name = m.Name
		}
	}
	for _, w := range s.o.Keyring.Wraps() {
		if w.Until == 0 {
			resp.Wraps = append(resp.Wraps, wrapMessage(w))
		}
	}
	for _, k := range s.o.Keyring.Keys() { // the oldest first
		if k.State == keyring.Removed {
			continue
		}
		if resp.DataKeys++; resp.DataKeys == 1 {
			resp.OldestKeyUnix = unix(k.Created)
		}
	}
	for _, c := range s.certificates() {
		file := c.File
		if file == "" {
			file = "self-signed"
		}
		resp.Certificates = append(resp.Certificates, &cofferpb.Certificate{File: file, NotAfterUnix: c.NotAfter.Unix()})
	}
	resp.Warnings = s.warnings()
	return resp, nil
}

func wrapMessage(w keyring.WrapInfo) *cofferpb.Wrap {
	return &cofferpb.Wrap{KekId: w.KEK, Uri: w.URI, CreatedUnix: unix(w.Created), Since: w.Since, Until: w.Until}
}

// certificates returns those in use, the one that ends first in front.
func (a *API) certificates() []Certificate {
	if a.o.Certificates == nil {
		return nil
	}
	all := a.o.Certificates()
	slices.SortStableFunc(all, func(x, y Certificate) int { return x.NotAfter.Compare(y.NotAfter) })
	return all
}

func (a *API) warnings() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if !a.hasLeader() {
		warn("%s", raftnode.ErrNoLeader)
	}
	for _, alarm := range a.store.Alarms(pb.AlarmType_NONE) {
		warn("alarm %s, raised by member %x", alarm.Alarm, alarm.MemberID)
	}
	for _, c := range a.certificates() {
		switch left := time.Until(c.NotAfter); {
		case left <= 0:
			warn("certificate %s has expired on %s", c.File, c.NotAfter.UTC().Format(time.DateOnly))
		case left < certificateNotice && c.File != "": // a certificate without a file is made anew at the next start
			warn("certificate %s expires on %s", c.File, c.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	if _, size := a.store.DB().Size(); a.o.LargeBytes > 0 && size >= a.o.LargeBytes {
		warn("the store has grown to %d bytes: compact it, and look for keys that are never deleted", size)
	}
	usage, err := a.o.FS.Inventory(a.o.SealedDirs...)
	if err != nil {
		warn("cannot tell what is under which data key: %v", err)
	}
	for _, u := range usage {
		if u.Kind == seal.KindForeign && u.Files > 0 {
			warn("files among the sealed ones that are not Coffer's, and not encrypted: %s", strings.Join(u.Names, ", "))
		}
	}
	return warnings
}

// snapshots remembers when the member last sent a snapshot.
type snapshots struct{ lastSnapshot atomic.Int64 }

func (s *snapshots) sent() {
	now := time.Now().Unix()
	s.lastSnapshot.Store(now)
	lastSnapshotSeconds.Set(float64(now))
}

var lastSnapshotSeconds = prometheus.NewGauge(prometheus.GaugeOpts{
	Namespace: "coffer", Name: "last_snapshot_timestamp_seconds",
	Help: "When the member last sent a snapshot to a client, in seconds since 1970; 0: not since it was started.",
})

func init() { prometheus.MustRegister(lastSnapshotSeconds) }
