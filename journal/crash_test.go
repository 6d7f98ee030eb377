package journal

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/keyring"
)

// A crash is the disk as the power may have left it, and what the journal may say then: what it said before the
// call that was under way, or what it was to say after it.
type crash struct {
	disk          *vfs.MemFS
	before, after *model
}

// crasher takes such disks at random moments: before random writes, syncs, renames and removals, those of background
// work and of opening included.
type crasher struct {
	rng  *rand.Rand
	rare int // a crash at one in so many such moments
	// At each, also what is left if only the process ends: all that it wrote.
	kills bool
	t     *testing.T
	kr    *keyring.Keyring
	disk  *vfs.MemFS

	mu            sync.Mutex
	before, after *model
	crashes       []crash
}

func (c *crasher) MaybeError(o errorfs.Op) error {
	if o.Kind.ReadOrWrite() == errorfs.OpIsRead || o.Kind == errorfs.OpFileClose {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rng.IntN(c.rare) == 0 {
		percent := []int{0, 10, 50, 90}[c.rng.IntN(4)]
		disk := c.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
		c.crashes = append(c.crashes, crash{disk, c.before, c.after})
		if c.kills {
			c.crashes = append(c.crashes, crash{diskWith(contents(c.t, c.disk)), c.before, c.after})
		}
	}
	return nil
}

func (c *crasher) String() string { return "crasher" }

// during runs f, which leads from the present state to after.
func (c *crasher) during(after *model, f func() error) error {
	c.mu.Lock()
	c.after = after
	c.mu.Unlock()
	err := f()
	c.mu.Lock()
	c.before = after
	c.mu.Unlock()
	return err
}

func (c *crasher) open() (*Journal, error) { return openOn(errorfs.Wrap(c.disk, c), c.kr) }

// TestEveryCrashLeavesWhatWasAcknowledged crashes at 10,000 points with COFFER_LONG=1, at a few hundred without.
func TestEveryCrashLeavesWhatWasAcknowledged(t *testing.T) {
	points := 300
	if long() {
		points = 10_000
	}
	kr := newKeyring(t)
	seen := 0
	for seed := uint64(1); seen < points; seed++ {
		seen += crashAround(t, kr, seed)
	}
	t.Logf("%d crashes", seen)
}

// crashAround lives through some crashes in a row, checks many more that might have been, and returns how many.
func crashAround(t *testing.T, kr *keyring.Keyring, seed uint64) (seen int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	empty := newModel()
	c := &crasher{rng: rand.New(rand.NewPCG(seed, 1)), rare: 25, kr: kr, disk: vfs.NewCrashableMem(), before: empty, after: empty}
	require.NoError(t, c.disk.MkdirAll("data", 0o700))
	root, err := c.disk.OpenDir("/")
	require.NoError(t, err)
	require.NoError(t, root.Sync())

	j, err := c.open()
	require.NoError(t, err)
	for range 150 {
		m := c.before.clone()
		o := randomOp(rng, m, kr)
		require.NoError(t, c.during(m, func() error { return o.do(j) }), "seed %d: %s", seed, o.name)

		c.mu.Lock()
		crashes := c.crashes
		c.crashes = nil
		c.mu.Unlock()
		seen += len(crashes)
		for _, cr := range crashes {
			again, err := openOn(cr.disk, kr)
			require.NoError(t, err, "seed %d, during %s", seed, o.name)
			m := cr.after.clone()
			if err := m.compare(again); err != nil {
				m = cr.before.clone()
				require.NoError(t, m.compare(again), "seed %d, during %s, which may have had no effect yet; if it had: %v", seed, o.name, err)
			}
			m.first, m.hs = again.FirstIndex(), again.HardState()
			abandon(again)
			if rng.IntN(20) == 0 { // go on from there
				abandon(j)
				c.disk, c.before, c.after = cr.disk, m, m
				j, err = c.open()
				require.NoError(t, err, "seed %d", seed)
				break
			}
		}
		switch rng.IntN(60) {
		case 0: // killed: what it wrote is there, synced or not
			abandon(j)
			j, err = c.open()
			require.NoError(t, err, "seed %d", seed)
			c.before.hs = j.HardState()
		case 1:
			require.NoError(t, j.Close())
			j, err = c.open()
			require.NoError(t, err, "seed %d", seed)
			require.Equal(t, c.before.hs.GetCommit(), j.HardState().GetCommit(), "seed %d", seed)
		}
	}
	abandon(j)
	return seen
}

// TestEveryCrashWhileAProcessBeginsLeavesTheLog crashes before every write of a process's first append, twice in a row,
// after a process that ended between the end mark of a segment and the first frame of the next.
func TestEveryCrashWhileAProcessBeginsLeavesTheLog(t *testing.T) {
	j, disk, kr, f := failing(t)
	for j.current().file.Fits(4000) {
		fill(t, j, 1, 3000)
	}
	j.background.Wait()
	f.arm(errorfs.OpFileWriteAt, segmentName(j.current().number+1))
	m := modelOf(t, j)
	require.Error(t, j.Append([]*raftpb.Entry{entry(m.last+1, 1, make([]byte, 4000))}, nil, true))
	abandon(j)

	disks := []*vfs.MemFS{disk}
	for range 2 {
		var next []*vfs.MemFS
		for _, disk := range disks {
			after := m.clone()
			o := after.append(rand.New(rand.NewPCG(1, 1)), m.last+1, 1)
			c := &crasher{rng: rand.New(rand.NewPCG(2, 2)), rare: 1, kills: true, t: t, kr: kr, disk: disk, before: m, after: after}
			j, err := c.open()
			require.NoError(t, err)
			require.NoError(t, o.do(j))
			abandon(j)
			for _, cr := range c.crashes {
				again, err := openOn(cr.disk, kr)
				require.NoError(t, err)
				if m.compare(again) == nil {
					next = append(next, cr.disk)
				} else {
					require.NoError(t, after.compare(again))
				}
				abandon(again)
			}
		}
		require.Greater(t, len(next), 10)
		disks = next
	}
}

// abandon leaves j as a process does that ends without closing it, except that its goroutines are waited for.
func abandon(j *Journal) { j.background.Wait() }
