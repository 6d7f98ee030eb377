package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/mvcc"
)

// stopTimeout is how long the process takes to end after SIGTERM, at most.
const stopTimeout = 1200 * time.Millisecond

// Run runs a member until it is told to end by SIGTERM or SIGINT (nil) or cannot go on (the reason).
// A second signal ends the process at once.
func Run(c *config.Config, build Build, log *zap.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	routeGRPCLog(log)
	limitMemory(log)
	if c.MemoryMlock {
		if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
			return fmt.Errorf("--memory-mlock: %w: raise the limit of locked memory (LimitMEMLOCK=, ulimit -l) or leave the flag out", err)
		}
	}

	started := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			// Whatever has been done so far is as good as undone by a crash, which every start expects.
			log.Info("received signal; ending before the start was complete", zap.Stringer("signal", s))
			_ = log.Sync()
			os.Exit(0)
		case <-started:
		}
	}()
	s, err := Start(c, build, log)
	close(started)
	if err != nil {
		return err
	}

	ready := s.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			notify(log, daemon.SdNotifyReady)
		case sig := <-signals:
			log.Info("received signal; shutting down...", zap.Stringer("signal", sig))
			go func() {
				log.Info("received a second signal; ending at once", zap.Stringer("signal", <-signals))
				_ = log.Sync()
				os.Exit(1)
			}()
			notify(log, daemon.SdNotifyStopping)
			return stop(s.Close, log)
		case err := <-s.Failed():
			return errors.Join(err, stop(s.Close, log))
		}
	}
}

// stopGrace is how much longer than stopTimeout a close may take that knows of the timeout.
const stopGrace = 100 * time.Millisecond

// stop closes the member. What is not closed in time, as a flush or a compaction of a large store goes on, ends with the
// process: the next start goes on from the journal, as after a crash.
func stop(closeMember func(context.Context) error, log *zap.Logger) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- closeMember(ctx) }()
	var err error
	select {
	case err = <-closed:
	case <-time.After(stopTimeout + stopGrace):
		err = errors.New("the store or the journal is still at work")
	}
	if err != nil {
		// The data is safe in any case; but a disk that fails on close will fail again.
		log.Warn("closing was not complete", zap.Error(err))
	}
	log.Info("closed the member", zap.Duration("took", time.Since(begun)))
	return nil
}

// notify tells the service manager, if there is one.
func notify(log *zap.Logger, state string) {
	sent, err := daemon.SdNotify(false, state)
	switch {
	case err != nil:
		log.Warn("failed to notify systemd", zap.String("state", state), zap.Error(err))
	case sent:
		log.Info("notified systemd", zap.String("state", state))
	}
}

// gcPercent is by how much the heap may grow over what is in use before the garbage is collected. Most of what is in use
// has no pointers (the index, the block cache, memtables), which costs the collector next to nothing. So it may run
// twice as often as it would by itself, and the process is smaller by a quarter of its heap.
const gcPercent = 50

// limitMemory tells Go's garbage collector how much garbage may be there, and about the memory limit of the container,
// unless GOGC or GOMEMLIMIT have done so. Of the limit a tenth is left for what else the collector does not count.
func limitMemory(log *zap.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := cgroupLimit(os.ReadFile)
	if limit == 0 {
		return
	}
	// In a container that is too small for it, the collector had better not run all the time.
	soft := max(limit/10*9-mvcc.DefaultMessageBytes, limit/2)
	debug.SetMemoryLimit(soft)
	log.Info("memory limit taken from the control group", zap.Int64("bytes", soft))
}

// cgroupLimit returns the smallest memory limit of this process's control groups (version 2), or 0.
func cgroupLimit(readFile func(string) ([]byte, error)) int64 {
	text, err := readFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	_, path, ok := strings.Cut(strings.TrimSpace(string(text)), "0::")
	if !ok || strings.Contains(path, "\n") {
		return 0
	}
	smallest := int64(0)
	for {
		text, err := readFile("/sys/fs/cgroup" + strings.TrimSuffix(path, "/") + "/memory.max")
		if err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (smallest == 0 || n < smallest) {
				smallest = n
			}
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 || path == "" {
			return smallest
		}
		path = path[:i]
	}
}
