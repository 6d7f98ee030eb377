package journal

import (
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/keyring"
)

// A fault makes one call to the disk fail: the first of kind, on a file whose name contains in, after arm.
type fault struct {
	mu    sync.Mutex
	kind  errorfs.OpKind
	in    string
	armed bool
	after int // calls that change the disk since it failed; -1 as long as it has not
}

func (f *fault) String() string { return "fault" }

func (f *fault) arm(kind errorfs.OpKind, in string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kind, f.in, f.armed, f.after = kind, in, true, -1
}

func (f *fault) MaybeError(o errorfs.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.after >= 0 && o.Kind.ReadOrWrite() == errorfs.OpIsWrite && o.Kind != errorfs.OpFileClose {
		f.after++
	}
	if f.armed && o.Kind == f.kind && strings.Contains(o.Path, f.in) {
		f.armed, f.after = false, 0
		return errorfs.ErrInjected
	}
	return nil
}

// failing opens a journal on a disk that can be made to fail.
func failing(t *testing.T) (*Journal, *vfs.MemFS, *keyring.Keyring, *fault) {
	kr, disk, f := newKeyring(t), vfs.NewCrashableMem(), &fault{after: -1}
	require.NoError(t, disk.MkdirAll("data", 0o700))
	root, err := disk.OpenDir("/")
	require.NoError(t, err)
	require.NoError(t, root.Sync())
	j, err := openOn(errorfs.Wrap(disk, f), kr)
	require.NoError(t, err)
	t.Cleanup(func() { abandon(j) })
	fill(t, j, 5, 100)
	j.background.Wait()

	t.Cleanup(func() {
		// Whatever failed, what was acknowledged is there.
		abandon(j)
		again, err := openOn(disk, kr)
		require.NoError(t, err)
		defer abandon(again)
		require.GreaterOrEqual(t, again.LastIndex(), j.LastIndex())
	})
	return j, disk, kr, f
}

// TestAFailedSyncIsFinal: the error names the file, and after it nothing is written or synced any more.
func TestAFailedSyncIsFinal(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileSyncData, errorfs.OpFileWriteAt} {
		j, _, _, f := failing(t)
		name := segmentName(j.current().number)
		f.arm(kind, name)
		last := j.LastIndex()
		err := j.Append([]*raftpb.Entry{entry(last+1, 1, nil)}, nil, true)
		require.ErrorIs(t, err, errorfs.ErrInjected)
		require.ErrorContains(t, err, name)
		require.Equal(t, last, j.LastIndex(), "readers see what is durable")

		require.Equal(t, err, j.Append([]*raftpb.Entry{entry(last+1, 1, nil)}, nil, true))
		require.Equal(t, err, j.Append(nil, hardState(9, 9, 1), false))
		require.Equal(t, err, j.WriteAnchor(Anchor{}))
		require.Equal(t, err, j.Cut(1))
		require.Equal(t, err, j.Expect(1, 1))
		require.Equal(t, err, j.Reset(100, 1))
		require.Equal(t, err, j.Roll())
		ents, readErr := j.Entries(1, last+1, 1<<20)
		require.NoError(t, readErr)
		require.Len(t, ents, int(last))
		require.ErrorIs(t, j.Close(), err)
		require.Zero(t, f.after)
	}
}

func TestAFailureToGoOnToTheNextSegmentIsFinal(t *testing.T) {
	j, _, _, f := failing(t)
	name := segmentName(j.current().number)
	for j.current().file.Fits(4000) {
		fill(t, j, 1, 3000)
	}
	f.arm(errorfs.OpFileSyncData, name) // of the end mark
	last := j.LastIndex()
	err := j.Append([]*raftpb.Entry{entry(last+1, 1, make([]byte, 4000))}, nil, true)
	require.ErrorContains(t, err, name)
	require.Equal(t, err, j.Roll())
}

// TestASegmentThatCouldNotBePreparedIsMadeWhenItIsNeeded: a full disk stops nothing as long as it is not full then.
func TestASegmentThatCouldNotBePreparedIsMadeWhenItIsNeeded(t *testing.T) {
	j, _, _, f := failing(t)
	f.arm(errorfs.OpCreate, segmentName(j.current().number+2))
	fill(t, j, 60, 1000)
	require.False(t, f.armed)
	require.Greater(t, j.current().number, uint64(3))
}

// TestWhatAKilledProcessHadNotSyncedIsKeptOnceItWasRead: a process is killed between write and sync, the next one
// reads what it wrote, and then the power goes.
func TestWhatAKilledProcessHadNotSyncedIsKeptOnceItWasRead(t *testing.T) {
	for _, endMark := range []bool{false, true} {
		j, disk, kr, f := failing(t)
		last := j.LastIndex()
		size := 100
		if endMark {
			for size = 4000; j.current().file.Fits(size + 100); last++ {
				fill(t, j, 1, 3000)
			}
		}
		f.arm(errorfs.OpFileSyncData, segmentName(j.current().number))
		require.Error(t, j.Append([]*raftpb.Entry{entry(last+1, 1, make([]byte, size))}, nil, true))
		abandon(j)

		again, err := openOn(disk, kr)
		require.NoError(t, err)
		last = again.LastIndex()
		for i := range uint64(2) { // whether or not it writes anything
			crashed, err := openOn(disk.CrashClone(vfs.CrashCloneCfg{}), kr)
			require.NoError(t, err)
			require.Equal(t, last+i, crashed.LastIndex())
			abandon(crashed)
			fill(t, again, 1, 100)
		}
		abandon(again)
	}
}
