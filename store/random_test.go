package store

import (
	"math/rand/v2"
	"testing"

	"github.com/pmezard/go-difflib/difflib"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// The same history gives the same state and the same results, however it is
// cut into entries and batches, and whether the store is opened anew between.
func TestTheSameHistoryCutDifferentlyGivesTheSameState(t *testing.T) {
	for seed := range uint64(6) {
		one, other := newMember(t), newMember(t)
		g := requests.New(seed)
		var cmds []*pb.InternalRaftRequest
		var want []Result
		for range 1500 {
			c := g.Next()
			cmds = append(cmds, c)
			want = append(want, one.do(c)...)
			g.Observe(one.store.Revision())
		}

		rng := rand.New(rand.NewPCG(seed, 1))
		var got []Result
		for rest := cmds; len(rest) > 0; {
			var entries []Entry
			for n := 1 + rng.IntN(4); n > 0 && len(rest) > 0; n-- {
				k := min(1+rng.IntN(10), len(rest))
				e := other.requests(rest[:k]...)
				if rng.IntN(2) == 0 {
					e.Commands = rest[:k]
				}
				entries = append(entries, e)
				rest = rest[k:]
			}
			for _, r := range other.apply(entries...) {
				got = append(got, r.Results...)
			}
			if rng.IntN(20) == 0 {
				other.reopen()
			}
		}
		if len(got) != len(want) {
			t.Fatalf("seed %d: %d results instead of %d", seed, len(got), len(want))
		}
		for i := range got {
			if got[i].Err != want[i].Err || !proto.Equal(got[i].Response, want[i].Response) {
				t.Fatalf("seed %d: request %d: %v\ngives %v %v\nand %v %v",
					seed, i, cmds[i], got[i].Response, got[i].Err, want[i].Response, want[i].Err)
			}
		}
		level(one, other)
		compareMembers(t, one, other)
	}
}

// level applies empty entries to the member whose log is shorter.
func level(a, b *member) {
	if a.index > b.index {
		a, b = b, a
	}
	for a.index < b.index {
		a.apply(a.entry(raftpb.EntryNormal, nil))
	}
}

func compareMembers(t *testing.T, a, b *member) {
	t.Helper()
	if x, y := a.dump(), b.dump(); x != y {
		d, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(x), B: difflib.SplitLines(y), Context: 1,
		})
		t.Fatalf("the states differ:\n%.4000s", d)
	}
}
