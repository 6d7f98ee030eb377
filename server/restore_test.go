package server

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARestoreThatCannotBePutInPlaceIsUndone(t *testing.T) {
	for _, existed := range []bool{false, true} {
		dir := t.TempDir()
		r := &restoration{data: filepath.Join(dir, "data"), wal: filepath.Join(dir, "wal")}
		for _, d := range []string{unfinished(r.data), unfinished(r.wal)} {
			require.NoError(t, os.Mkdir(d, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(d, "content"), nil, 0o600))
		}
		require.NoError(t, os.Mkdir(r.data, 0o700))
		theirs := filepath.Join(r.data, "theirs") // came meanwhile, and is in the way
		require.NoError(t, os.WriteFile(theirs, nil, 0o600))
		if existed {
			require.NoError(t, os.Mkdir(r.wal, 0o750))
		}

		require.ErrorContains(t, r.appear(), r.data)
		require.FileExists(t, theirs)
		require.NoError(t, refuseFull(r.wal), "another attempt would be refused")
		info, err := os.Stat(r.wal)
		if existed {
			require.NoError(t, err)
			require.Equal(t, fs.ModeDir|0o750, info.Mode())
		} else {
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		require.NoError(t, r.discard())
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.LessOrEqual(t, len(left), 2, "%v", left)
		// With nothing in the way it works.
		require.NoError(t, os.Remove(theirs))
		require.NoError(t, os.Mkdir(unfinished(r.data), 0o700))
		require.NoError(t, os.Mkdir(unfinished(r.wal), 0o700))
		require.NoError(t, r.appear())
		require.NoError(t, r.discard())
	}
}
