package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cofferkv/coffer/config"
)

func TestADirectoryOpenToOthersIsWarnedOf(t *testing.T) {
	for mode, warned := range map[os.FileMode]bool{0o700: false, 0o750: true, 0o701: true, 0o777: true} {
		c := config.Default()
		c.DataDir, c.WALDir = t.TempDir(), t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(c.DataDir, keyringName), nil, 0o600)) // not a first start
		require.NoError(t, errors.Join(os.Chmod(c.DataDir, 0o700), os.Chmod(c.WALDir, 0o700)))
		for _, dir := range []string{c.DataDir, c.WALDir} {
			log, entries := observer.New(zap.WarnLevel)
			s := &Server{c: c, log: zap.New(log)}
			require.NoError(t, os.Chmod(dir, mode))
			require.NoError(t, s.openDataDir())
			s.dir.close()
			found := entries.FilterMessage("check file permission").All()
			if !warned {
				require.Empty(t, found, mode)
			} else {
				require.Len(t, found, 1, mode)
				require.Contains(t, fmt.Sprint(found[0].ContextMap()["error"]), "chmod 700 "+dir)
			}
			require.NoError(t, os.Chmod(dir, 0o700))
		}
	}
}
