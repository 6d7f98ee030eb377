package lease

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScripts plays the scripts in testdata: what a lease is, told by example.
// Time stands still but for the command "wait".
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			s := &script{}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				s.out.Reset()
				s.run(t, d)
				return s.out.String()
			})
			s.le.Demote() // lets go who still waits
		})
	})
}

type script struct {
	out     strings.Builder
	le      *Lessor
	elapsed atomic.Int64
	renewal chan string // the one that waits, if any
	hold    chan struct{}
}

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	var (
		id   int64
		ttl  int64
		d1   string
		keys []string
	)
	d.MaybeScanArgs(t, "id", &id)
	d.MaybeScanArgs(t, "ttl", &ttl)
	for _, a := range d.CmdArgs {
		if a.Key == "key" {
			keys = append(keys, a.Vals...)
		}
	}
	duration := func(arg string) time.Duration {
		if !d.MaybeScanArgs(t, arg, &d1) {
			return 0
		}
		v, err := time.ParseDuration(d1)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	switch d.Cmd {
	case "new":
		start := time.Now()
		s.le = New(Options{
			Now:                func() time.Time { return start.Add(time.Duration(s.elapsed.Load())) },
			CheckpointInterval: duration("checkpoints"),
		})
	case "grant":
		r, err := s.le.Grant(id, ttl)
		s.print(err, "%s", show(r))
	case "revoke":
		keys, err := s.le.Revoke(id)
		s.print(err, "delete %q", keys)
	case "checkpoint":
		if r, ok := s.le.Checkpoint(id, ttl); ok {
			s.print(nil, "%s", show(r))
		} else {
			s.print(nil, "no such lease")
		}
	case "attach":
		for _, k := range keys {
			s.print(s.le.Attach(id, []byte(k)), "ok")
		}
	case "detach":
		for _, k := range keys {
			s.le.Detach(id, []byte(k))
		}
	case "load":
		var remaining int64
		d.MaybeScanArgs(t, "remaining", &remaining)
		s.print(s.le.Load(Record{ID: id, TTL: ttl, Remaining: remaining}), "ok")
	case "reset":
		s.le.Reset()
	case "lookup":
		if r, ok := s.le.Lookup(id); ok {
			s.print(nil, "%s", show(r))
		} else {
			s.print(nil, "no such lease")
		}
	case "keys":
		keys, err := s.le.Keys(id)
		s.print(err, "%q", keys)
	case "leases":
		s.print(nil, "%d", s.le.Leases())
	case "promote":
		s.le.Promote(duration("extend"))
	case "demote":
		s.le.Demote()
	case "wait":
		s.elapsed.Add(int64(duration("for")))
	case "expired":
		limit := 10
		d.MaybeScanArgs(t, "limit", &limit)
		s.print(nil, "%d", s.le.Expired(limit))
	case "ttl":
		r, err := s.le.TimeToLive(id, d.HasArg("keys"))
		s.print(err, "granted=%d remaining=%d", r.Granted, r.Remaining)
		if err == nil && d.HasArg("keys") {
			s.print(nil, "keys=%q", r.Keys)
		}
	case "renew":
		// Clearing a checkpoint applies at once, unless it is held up.
		s.renewal = make(chan string, 1)
		if d.HasArg("hold-clear") {
			s.hold = make(chan struct{})
		}
		hold := s.hold
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		go func() {
			defer cancel()
			cleared := ""
			ttl, err := s.le.Renew(ctx, id, func(context.Context) error {
				cleared += " cleared"
				if hold != nil {
					<-hold
				}
				s.le.Checkpoint(id, 0)
				return nil
			})
			if err != nil {
				s.renewal <- fmt.Sprintf("error: %v%s", err, cleared)
			} else {
				s.renewal <- fmt.Sprintf("ttl=%d%s", ttl, cleared)
			}
		}()
		s.renewed()
	case "renewed":
		s.renewed()
	case "let-clear":
		close(s.hold)
		s.hold = nil
		s.renewed()
	case "due":
		for _, r := range s.le.DueCheckpoints(10) {
			s.print(nil, "%s", show(r))
		}
	case "drop":
		s.le.DropCheckpoints([]Record{{ID: id}})
	default:
		d.Fatalf(t, "unknown command")
	}
}

func (s *script) renewed() {
	synctest.Wait()
	select {
	case r := <-s.renewal:
		s.print(nil, "%s", r)
	default:
		s.print(nil, "waits")
	}
}

func (s *script) print(err error, format string, args ...any) {
	if err != nil {
		format, args = "error: %v", []any{err}
	}
	fmt.Fprintf(&s.out, format+"\n", args...)
}

func show(r Record) string {
	s := fmt.Sprintf("lease %d ttl=%d", r.ID, r.TTL)
	if r.Remaining != 0 {
		s += fmt.Sprintf(" remaining=%d", r.Remaining)
	}
	return s
}
