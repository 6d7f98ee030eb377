package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/mvcc"
)

// corruptionChecks compare the history of this member with that of the others, by its hash. What is on the disk is
// authenticated whenever it is read; what is found here are members that have applied the same log differently.
type corruptionChecks struct {
	id  uint64 // of this member
	log *zap.Logger

	hash       func(ctx context.Context, rev int64) (mvcc.KeyValueHash, error)
	remembered func() []mvcc.KeyValueHash // of the last compactions, the oldest first
	readIndex  func(context.Context) error
	peers      func(ctx context.Context, rev int64) []peerHash
	alarm      func(ctx context.Context, member uint64) // 0: it is not known which one

	checked int64 // the last compaction of which all members had the same hash
}

// peerHash is another member's answer, or why there is none.
type peerHash struct {
	member uint64
	mvcc.KeyValueHash
	err error
}

const checkTimeout = 7 * time.Second

func (s *Server) newCorruptionChecks() *corruptionChecks {
	return &corruptionChecks{
		id: s.keyring.Member().MemberID, log: s.log,
		hash: s.store.DB().HashKV, remembered: s.store.DB().Hashes, readIndex: s.node.ReadIndex,
		// There are no others yet: clusters of several members are not supported.
		peers: func(context.Context, int64) []peerHash { return nil },
		alarm: func(ctx context.Context, member uint64) {
			_, err := s.node.Propose(ctx, &pb.InternalRaftRequest{
				Alarm: &pb.AlarmRequest{MemberID: member, Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT},
			})
			if err != nil {
				s.log.Warn("could not raise the CORRUPT alarm", zap.Error(err))
			}
		},
	}
}

// checkCorruption is done by the leader at intervals, if that was asked for, until the member ends.
func (s *Server) checkCorruption(checks *corruptionChecks) error {
	var periodic, compacted <-chan time.Time
	if every := s.c.CorruptCheckTime; every > 0 {
		s.log.Info("enabled corruption checking", zap.String("local-member-id", fmt.Sprintf("%x", checks.id)), zap.Duration("interval", every))
		t := time.NewTicker(every)
		defer t.Stop()
		periodic = t.C
	}
	if s.c.Features.Enabled("CompactHashCheck") {
		t := time.NewTicker(s.c.CompactHashCheckTime)
		defer t.Stop()
		compacted = t.C
	}
	if periodic == nil && compacted == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.serving.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		check := checks.compactions
		select {
		case <-ctx.Done():
			return nil
		case <-periodic:
			check = checks.current
		case <-compacted:
		}
		if s.node.Status().Leader != checks.id {
			continue
		}
		once, done := context.WithTimeout(ctx, checkTimeout)
		if err := check(once); err != nil && ctx.Err() == nil {
			s.log.Warn("failed to check hash KV", zap.Error(err))
		}
		done()
	}
}

// initial compares before the member serves anybody. An error says that it must not.
func (c *corruptionChecks) initial(ctx context.Context) error {
	id := zap.String("local-member-id", fmt.Sprintf("%x", c.id))
	c.log.Info("starting initial corruption check", id, zap.Duration("timeout", checkTimeout))
	own, err := c.hash(ctx, 0)
	if err != nil {
		return fmt.Errorf("initial corruption check: %w", err)
	}
	for _, p := range c.peers(ctx, own.Revision) {
		switch {
		case p.err != nil:
			c.log.Warn("another member's hash could not be had", peerFields(own, p)...)
		case p.CompactRevision != own.CompactRevision:
			c.log.Warn("found different compact revision values from remote peer", peerFields(own, p)...)
		case p.Hash != own.Hash:
			c.log.Warn("found different hash values from remote peer", peerFields(own, p)...)
			err = fmt.Errorf("this member's history differs from that of member %x at revision %d: "+
				"find out which of them is right, remove the other and add it again with an empty data directory", p.member, own.Revision)
		}
	}
	if err == nil {
		c.log.Info("initial corruption checking passed; no corruption", id)
	}
	return err
}

// current compares where the members stand now. Others may lag, but must not be ahead of a leader that has just proved to
// be one.
func (c *corruptionChecks) current(ctx context.Context) error {
	own, err := c.hash(ctx, 0)
	if err != nil {
		return err
	}
	peers := c.peers(ctx, own.Revision)
	if err := c.readIndex(ctx); err != nil {
		return err
	}
	again, err := c.hash(ctx, 0)
	if err != nil {
		return err
	}
	if again.Revision == own.Revision && again.CompactRevision == own.CompactRevision && again.Hash != own.Hash {
		c.log.Warn("found hash mismatch", zap.Int64("revision", own.Revision), zap.Uint32("hash-1", own.Hash), zap.Uint32("hash-2", again.Hash))
		c.alarm(ctx, c.id)
	}
	count := 0
	for _, p := range peers {
		if p.err != nil {
			continue
		}
		count++
		reason := ""
		switch {
		case p.Current > again.Current:
			reason = "revision from follower must be less than or equal to leader's"
		case p.CompactRevision > again.CompactRevision:
			reason = "compact revision from follower must be less than or equal to leader's"
		case p.CompactRevision == own.CompactRevision && p.Hash != own.Hash:
			reason = "same compact revision then hashes must match"
		default:
			continue
		}
		c.log.Warn(reason, peerFields(own, p)...)
		c.alarm(ctx, p.member)
	}
	c.log.Info("finished peer corruption check", zap.Int("number-of-peers-checked", count))
	return nil
}

// compactions compares what the members remember of the last compactions, beginning with the last one, until there is one
// of which all of them know.
func (c *corruptionChecks) compactions(ctx context.Context) error {
	c.log.Info("starting compact hash check", zap.String("local-member-id", fmt.Sprintf("%x", c.id)), zap.Duration("timeout", checkTimeout))
	count := 0
	for _, own := range slices.Backward(c.remembered()) {
		if own.Revision <= c.checked {
			break
		}
		count++
		peers := c.peers(ctx, own.Revision)
		if len(peers) > 0 && c.compareCompaction(ctx, own, peers) {
			break
		}
	}
	c.log.Info("finished compaction hash check", zap.Int("number-of-hashes-checked", count))
	return nil
}

// compareCompaction reports whether it has come to a conclusion about a compaction.
func (c *corruptionChecks) compareCompaction(ctx context.Context, own mvcc.KeyValueHash, peers []peerHash) bool {
	byHash := map[uint32][]uint64{own.Hash: {c.id}}
	known := 0
	for _, p := range peers {
		if p.err != nil || p.CompactRevision != own.CompactRevision {
			c.log.Warn("skipped a member in the compaction hash check", peerFields(own, p)...)
			continue
		}
		known++
		byHash[p.Hash] = append(byHash[p.Hash], p.member)
	}
	if len(byHash) == 1 {
		if known == len(peers) {
			c.checked = own.Revision
			c.log.Info("successfully checked hash on whole cluster", zap.Int("number-of-peers-checked", known), zap.Int64("revision", own.Revision))
		}
		return known == len(peers)
	}
	majority := false
	for hash, members := range byHash {
		if len(members) > (len(peers)+1)/2 {
			delete(byHash, hash) // these are right
			majority = true
			break
		}
	}
	for hash, members := range byHash {
		c.log.Error("Detected compaction hash mismatch", zap.Int64("leader-revision", own.Revision), zap.Uint32("leader-hash", own.Hash),
			zap.Uint32("hash", hash), zap.String("member-ids", fmt.Sprintf("%x", members)), zap.Bool("quorum-exist", majority))
		if majority {
			for _, m := range members {
				c.alarm(ctx, m)
			}
		}
	}
	if !majority {
		c.alarm(ctx, 0)
	}
	return true
}

func peerFields(own mvcc.KeyValueHash, p peerHash) []zap.Field {
	return []zap.Field{
		zap.Int64("local-member-revision", own.Revision), zap.Int64("local-member-compact-revision", own.CompactRevision),
		zap.Uint32("local-member-hash", own.Hash), zap.String("remote-peer-id", fmt.Sprintf("%x", p.member)),
		zap.Int64("remote-peer-revision", p.Current), zap.Int64("remote-peer-compact-revision", p.CompactRevision),
		zap.Uint32("remote-peer-hash", p.Hash), zap.Error(p.err),
	}
}
