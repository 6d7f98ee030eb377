package server

import (
	"context"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestAProcessEndsInTimeWhateverClosingTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := make(chan struct{})
		defer close(disk)
		begun := time.Now()
		require.NoError(t, stop(func(context.Context) error { <-disk; return nil }, zap.NewNop()))
		require.Less(t, time.Since(begun), 1500*time.Millisecond)
	})
}

func TestTheSmallestMemoryLimitOfTheControlGroupsCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no control group":       {nil, 0},
		"version 1":              {map[string]string{"/proc/self/cgroup": "3:memory:/a\n2:cpu:/\n"}, 0},
		"a container":            {map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		"none set":               {map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "max\n"}, 0},
		"a service in a slice":   {map[string]string{"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "max\n", "/sys/fs/cgroup/a/memory.max": "500\n"}, 500},
		"both service and slice": {map[string]string{"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "700\n", "/sys/fs/cgroup/a/memory.max": "500\n"}, 500},
	} {
		got := cgroupLimit(func(path string) ([]byte, error) {
			text, ok := tt.files[path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		})
		require.Equal(t, tt.want, got, name)
	}
}
