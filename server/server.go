// Package server puts a member together from its configuration and takes it apart again.
//
// [Start] opens what a member stands on from the bottom up, in an order that matters: the lock on the data directory,
// the sockets (so that a port in use is found before anything is written), the KEK, the keyring, the sealed file system,
// the journal, the comparison of journal and database, the store, raft, the API. [Server.Close] goes the other way.
// [Run] adds what a process needs: signals, the service manager, and the reason when it ends.
package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/api"
	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
	"github.com/cofferkv/coffer/watch"
)

// Build says which program this is.
type Build struct {
	Version string // of Coffer, "0.1.0"
	Commit  string
	Date    string
}

// Server is a running member.
type Server struct {
	c     *config.Config
	log   *zap.Logger
	build Build

	clientTLS, peerTLS *identitySource
	tokens             *auth.Tokens

	dir      *dataDir
	founders *founders // nil unless this is a first start
	sockets  []*socket
	kek      *kms.KEK
	keyring  *keyring.Keyring
	fs       *seal.FS
	journal  *journal.Journal
	store    *store.Store
	node     *raftnode.Node
	api      *api.API
	serving  *serving

	failed chan error
}

// Start opens a member and lets it take part in its cluster. Clients are served when Ready is closed.
//
// An error says what was being done, on which file or address, and what the operator can do; nothing stays open.
func Start(c *config.Config, build Build, log *zap.Logger) (*Server, error) {
	s := &Server{c: c, log: log, build: build, failed: make(chan error, 1)}
	for _, step := range []func() error{
		s.openTLS, s.openTokens, s.openDataDir, s.openSockets, s.openKeys, s.openState, s.startNode, s.startServing,
	} {
		if err := step(); err != nil {
			s.release()
			return nil, err
		}
	}
	return s, nil
}

// Ready is closed when the member has a leader and has made itself known to its cluster.
func (s *Server) Ready() <-chan struct{} { return s.node.Ready() }

// Failed receives the reason when the member cannot go on.
func (s *Server) Failed() <-chan error { return s.failed }

func (s *Server) openTLS() error {
	var err error
	if !s.c.Client.Empty() || s.c.Client.Auto {
		if s.clientTLS, err = newIdentitySource(s.c.Client, s.c, s.log); err != nil {
			return fmt.Errorf("TLS for clients: %w", err)
		}
	}
	if !s.c.Peer.Empty() || s.c.Peer.Auto {
		if s.peerTLS, err = newIdentitySource(s.c.Peer, s.c, s.log); err != nil {
			return fmt.Errorf("TLS between members: %w", err)
		}
	}
	return nil
}

// maxRequestBytes is the largest request that fits into a log entry, with what the entry says about it.
const maxRequestBytes = journal.MaxEntry - 4096

func (s *Server) openTokens() (err error) {
	if s.tokens, err = auth.NewTokens(s.c.AuthToken, time.Duration(s.c.AuthTokenTTL)*time.Second, s.log); err != nil {
		return fmt.Errorf("--auth-token: %w", err)
	}
	return nil
}

func (s *Server) openDataDir() error {
	if s.c.MaxRequestBytes > maxRequestBytes {
		return fmt.Errorf("--max-request-bytes=%d: a request of that size does not fit into an entry of the log, which takes %d bytes: give less",
			s.c.MaxRequestBytes, maxRequestBytes)
	}
	if err := refuseKEKInside(s.c); err != nil {
		return err
	}
	var err error
	if s.dir, err = openDataDir(s.c); err != nil {
		return err
	}
	for _, dir := range []string{s.c.DataDir, s.c.WALDir} {
		if err := checkPermission(dir); err != nil {
			s.log.Warn("check file permission", zap.Error(err))
		}
	}
	if names := s.dir.strangers(); len(names) > 0 {
		s.log.Warn("found files in the data directory that are not a member's: move them elsewhere; Coffer does not encrypt them",
			zap.String("data-dir", s.dir.path), zap.Strings("names", names))
	}
	if s.dir.fresh {
		s.founders, err = initialMembers(s.c)
	}
	return err
}

// openKeys opens the KEK and the keyring, and makes them on a first start.
func (s *Server) openKeys() error {
	if err := keyring.ProtectProcess(); err != nil {
		s.log.Warn("keys could be read from a core dump or by another process of the same user", zap.Error(err))
	}
	var err error
	if s.c.KEKCreate && s.dir.fresh {
		s.kek, err = kms.Create(s.c.KEK)
	} else {
		s.kek, err = kms.Open(s.c.KEK)
	}
	if err != nil {
		return err
	}
	path := s.dir.file(keyringName)
	if s.dir.fresh {
		if s.keyring, err = keyring.Create(vfs.Default, path, s.founders.self(), s.kek); err != nil {
			return err
		}
	} else if s.keyring, err = keyring.Open(vfs.Default, path, s.kek); err != nil {
		return err
	}
	if err := kms.LockError(); err != nil {
		s.log.Warn("keys are not locked in memory and may be written to swap: raise the limit of locked memory (LimitMEMLOCK=, ulimit -l)",
			zap.Error(err))
	}
	s.fs = seal.New(vfs.Default, s.keyring, seal.Options{Logger: s.log})
	return nil
}

// openState opens the journal, holds it against the database and the keyring, and opens the store.
func (s *Server) openState() error {
	if err := s.checkCompleteness(); err != nil {
		return err
	}
	var err error
	s.journal, err = journal.Open(journal.Options{FS: s.fs, Dir: s.dir.journal, Logger: s.log})
	if err != nil {
		return err
	}
	if err := s.firstAnchor(); err != nil {
		return err
	}
	if err := s.checkAnchor(); err != nil {
		return err
	}
	// Only now: a start that is refused changes nothing.
	if err := s.fs.RemoveUnfinished(s.dir.sealed()...); err != nil {
		return err
	}
	checkpoints := time.Duration(0)
	if s.c.Features.Enabled("LeaseCheckpoint") {
		checkpoints = leaseCheckpointInterval
	}
	s.store, err = store.Open(store.Options{
		FS: s.fs, Dir: s.dir.file(dbName), Logger: s.log, MaxLearners: s.c.MaxLearners,
		Lease: lease.Options{CheckpointInterval: checkpoints},
		Watch: watch.Options{ProgressInterval: s.c.WatchProgressNotifyInterval},
		Fatal: s.fatal, Tokens: s.tokens,
	})
	return err
}

// checkCompleteness refuses a directory from which the journal, or everything but the keyring, was removed.
func (s *Server) checkCompleteness() error {
	if s.dir.fresh {
		return nil
	}
	state, err := s.dir.state()
	if err != nil {
		return err
	}
	const remedy = "Put the whole directory back from a copy, or restore a snapshot into another directory. Nothing has been changed"
	switch {
	case state == stateNoJournal:
		return fmt.Errorf("data directory %s has a database, but no journal in %s: it was removed, or --wal-dir is not that of the last start. %s",
			s.dir.path, s.dir.journal, remedy)
	case state == stateUnfinished && s.keyring.Generation() > 1:
		return fmt.Errorf("data directory %s has a keyring in its generation %d, but neither journal nor database: they were removed. %s",
			s.dir.path, s.keyring.Generation(), remedy)
	case state == stateUnfinished:
		s.dir.fresh = true // the first start did not get further
	}
	return nil
}

const leaseCheckpointInterval = 5 * time.Minute

// fatal ends the process at once: the storage engine cannot go on, and an orderly end would only write more.
func (s *Server) fatal(err error) {
	s.log.Fatal("the store failed; the member ends, and nothing that was acknowledged is lost", zap.String("error", err.Error()))
}

// flushBytes is how much of the log is replayed after a crash, at most: what a machine with two cores applies in a
// tenth of a second.
const flushBytes = 8 << 20

func (s *Server) startNode() error {
	var bootstrap []*pb.Member
	if index, _ := s.store.Applied(); index == 0 && s.journal.LastIndex() == 0 {
		founders, err := initialMembers(s.c)
		if err != nil {
			return err
		}
		if made, now := s.keyring.Member(), founders.self(); made != now {
			return fmt.Errorf("data directory %s was made for member %x of cluster %x, but --initial-cluster and --initial-cluster-token make this member %x of cluster %x: "+
				"give the settings of the first start, or another --data-dir", s.dir.path, made.MemberID, made.ClusterID, now.MemberID, now.ClusterID)
		}
		bootstrap = founders.members
	}
	member := s.keyring.Member()
	keep, revisions, err := s.c.AutoCompaction()
	if err != nil {
		return err
	}
	if s.c.AutoCompactionMode == config.CompactionRevision {
		keep = time.Duration(revisions)
	}
	quota := s.c.Quota()
	if quota == 0 {
		quota = -1
	}
	ballast := int64(s.c.DiskReserveBytes)
	if ballast == 0 {
		ballast = -1
	}
	s.logSettings(member)
	reportFeatures(s.c.Features)
	s.node, err = raftnode.Start(raftnode.Options{
		ID: member.MemberID, ClusterID: member.ClusterID, Journal: s.journal, Store: s.store,
		Bootstrap: bootstrap, Name: s.c.Name, ClientURLs: config.Strings(s.c.AdvertiseClientURLs),
		Tick: s.c.TickInterval(), ElectionTicks: s.c.ElectionTicks(),
		DisablePreVote: !s.c.PreVote, DisableStrictReconfigCheck: !s.c.StrictReconfigCheck,
		MaxRequestBytes: int(s.c.MaxRequestBytes), QuotaBytes: quota,
		SnapshotCount: s.c.SnapshotCount, CatchUpEntries: s.c.SnapshotCatchUpEntries, FlushBytes: flushBytes,
		CompactionMode: s.c.AutoCompactionMode, CompactionRetention: keep,
		FS: s.fs, Keyring: s.keyring, DBDir: s.dir.file(dbName), SealedDirs: s.dir.sealed(),
		BallastPath: s.dir.file(ballastName), BallastBytes: ballast,
		Logger: s.log,
	})
	if err != nil {
		return err
	}
	// From now on a directory with nothing but its keyring is one whose journal and database were removed.
	return s.keyring.Begun()
}

// logSettings writes the line that says with which settings the member runs.
func (s *Server) logSettings(member keyring.Member) {
	c := s.c
	s.log.Info("starting a Coffer member",
		zap.String("coffer-version", s.build.Version),
		zap.String("etcd-version", version.Version),
		zap.String("git-sha", s.build.Commit),
		zap.String("go-version", runtime.Version()),
		zap.String("go-os", runtime.GOOS),
		zap.String("go-arch", runtime.GOARCH),
		zap.Int("max-cpu-set", runtime.GOMAXPROCS(0)),
		zap.Int("max-cpu-available", runtime.NumCPU()),
		zap.Bool("member-initialized", !s.dir.fresh),
		zap.String("name", c.Name),
		zap.String("member-id", fmt.Sprintf("%x", member.MemberID)),
		zap.String("cluster-id", fmt.Sprintf("%x", member.ClusterID)),
		zap.String("data-dir", c.DataDir),
		zap.String("wal-dir", c.WALDir),
		zap.String("kek", s.kek.URI()),
		zap.String("kek-id", s.kek.ID()),
		zap.String("data-key", s.keyring.Active().String()),
		zap.Uint64("keyring-generation", s.keyring.Generation()),
		zap.String("heartbeat-interval", c.TickInterval().String()),
		zap.String("election-timeout", (time.Duration(c.ElectionTimeout)*time.Millisecond).String()),
		zap.Bool("initial-election-tick-advance", c.InitialElectionTickAdvance),
		zap.Uint64("snapshot-count", c.SnapshotCount),
		zap.Uint64("snapshot-catchup-entries", c.SnapshotCatchUpEntries),
		zap.Strings("initial-advertise-peer-urls", config.Strings(c.AdvertisePeerURLs)),
		zap.Strings("listen-peer-urls", config.Strings(c.ListenPeerURLs)),
		zap.Strings("advertise-client-urls", config.Strings(c.AdvertiseClientURLs)),
		zap.Strings("listen-client-urls", config.Strings(c.ListenClientURLs)),
		zap.Strings("listen-client-http-urls", config.Strings(c.ListenClientHTTPURLs)),
		zap.Strings("listen-metrics-urls", config.Strings(c.ListenMetricsURLs)),
		zap.Strings("cors", c.CORS),
		zap.Strings("host-whitelist", c.HostWhitelist),
		zap.String("initial-cluster", c.InitialCluster),
		zap.String("initial-cluster-state", c.InitialClusterState),
		zap.String("initial-cluster-token", c.InitialClusterToken),
		zap.Int64("quota-backend-bytes", c.Quota()),
		zap.Uint("max-request-bytes", c.MaxRequestBytes),
		zap.Uint32("max-concurrent-streams", c.MaxConcurrentStreams),
		zap.Bool("pre-vote", c.PreVote),
		zap.Bool("strict-reconfig-check", c.StrictReconfigCheck),
		zap.String("feature-gates", c.Features.String()),
		zap.Duration("corrupt-check-time-interval", c.CorruptCheckTime),
		zap.Duration("compact-check-time-interval", c.CompactHashCheckTime),
		zap.String("v2-deprecation", "write-only"), // what etcd says whatever it was told
		zap.String("auto-compaction-mode", c.AutoCompactionMode),
		zap.String("auto-compaction-retention", c.AutoCompactionRetention),
		zap.Uint64("disk-reserve-bytes", c.DiskReserveBytes),
	)
}

// Close ends the member in order: no new requests, streams closed, requests under way answered as far as they get in
// time, leadership handed over, and everything closed. What ctx cuts short is cut off; nothing acknowledged is lost by it.
func (s *Server) Close(ctx context.Context) error {
	idle := s.serving == nil || s.serving.close(ctx)
	if s.node != nil {
		if err := s.node.Stop(ctx); err != nil {
			return err // journal and store are still in use: the end of the process closes them
		}
		s.node = nil
	}
	if !idle {
		return errors.New("requests are still reading from the store") // likewise
	}
	return s.release()
}

// release closes what is open, from the top down. Raft must have stopped.
func (s *Server) release() error {
	var errs []error
	if s.node != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.node.Stop(ctx); err != nil {
			return err
		}
	}
	for _, socket := range s.sockets {
		socket.close()
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	if s.keyring != nil {
		s.keyring.Close()
	}
	if s.kek != nil {
		s.kek.Close()
	}
	if s.dir != nil {
		s.dir.close()
	}
	return errors.Join(errs...)
}

// fail reports why the member cannot go on. The first reason counts.
func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}
