package server

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cofferkv/coffer/mvcc"
)

func TestMembersOfWhichTheHistoryDiffersAreFound(t *testing.T) {
	at := func(hash uint32, compact, rev int64) mvcc.KeyValueHash {
		return mvcc.KeyValueHash{Hash: hash, CompactRevision: compact, Revision: rev, Current: rev}
	}
	same, other, third := at(7, 3, 9), at(8, 3, 9), at(9, 3, 9)
	for name, c := range map[string]struct {
		peers               []mvcc.KeyValueHash
		initial             bool // passes
		current, compaction []uint64
	}{
		"alone":                 {nil, true, nil, nil},
		"equal":                 {[]mvcc.KeyValueHash{same, same}, true, nil, nil},
		"one differs":           {[]mvcc.KeyValueHash{same, other}, false, []uint64{3}, []uint64{3}},
		"this one differs":      {[]mvcc.KeyValueHash{other, other}, false, []uint64{2, 3}, []uint64{1}},
		"all differ":            {[]mvcc.KeyValueHash{other, third}, false, []uint64{2, 3}, []uint64{0}},
		"not comparable":        {[]mvcc.KeyValueHash{at(8, 2, 9), same}, true, nil, nil},
		"ahead":                 {[]mvcc.KeyValueHash{at(7, 3, 10), same}, true, []uint64{2}, nil},
		"compacted ahead":       {[]mvcc.KeyValueHash{at(8, 4, 9), same}, true, []uint64{2}, nil},
		"two of four differ":    {[]mvcc.KeyValueHash{same, other, other}, false, []uint64{3, 4}, []uint64{0}},
		"the other of two does": {[]mvcc.KeyValueHash{other}, false, []uint64{2}, []uint64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			core, log := observer.New(zap.InfoLevel)
			var alarms []uint64
			checks := &corruptionChecks{
				id: 1, log: zap.New(core),
				hash:       func(context.Context, int64) (mvcc.KeyValueHash, error) { return same, nil },
				remembered: func() []mvcc.KeyValueHash { return []mvcc.KeyValueHash{at(1, -1, 3), same} },
				readIndex:  func(context.Context) error { return nil },
				peers: func(context.Context, int64) (all []peerHash) {
					for i, h := range c.peers {
						all = append(all, peerHash{member: uint64(i) + 2, KeyValueHash: h})
					}
					return all
				},
				alarm: func(_ context.Context, member uint64) { alarms = append(alarms, member) },
			}
			require.Equal(t, c.initial, checks.initial(ctx) == nil)
			require.Empty(t, alarms)
			require.NoError(t, checks.current(ctx))
			require.Equal(t, c.current, alarms)
			alarms = nil
			require.NoError(t, checks.compactions(ctx))
			require.ElementsMatch(t, c.compaction, alarms)
			require.Equal(t, 1, log.FilterMessage("finished compaction hash check").Len())
		})
	}
}

func TestAMemberThatDoesNotAnswerIsNotSuspected(t *testing.T) {
	own := mvcc.KeyValueHash{Hash: 7, CompactRevision: 3, Revision: 9}
	checks := &corruptionChecks{
		id: 1, log: zap.NewNop(),
		hash:       func(context.Context, int64) (mvcc.KeyValueHash, error) { return own, nil },
		remembered: func() []mvcc.KeyValueHash { return []mvcc.KeyValueHash{own} },
		readIndex:  func(context.Context) error { return nil },
		peers: func(context.Context, int64) []peerHash {
			return []peerHash{{member: 2, err: errors.New("no answer")}}
		},
		alarm: func(_ context.Context, member uint64) { t.Errorf("an alarm for %d", member) },
	}
	require.NoError(t, checks.initial(context.Background()))
	require.NoError(t, checks.current(context.Background()))
	require.NoError(t, checks.compactions(context.Background()))
	require.Zero(t, checks.checked)
}
