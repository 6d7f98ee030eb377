package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/config"
)

func TestTheLogGoesWhereItIsToldInTheFormAsked(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
	c := config.Default()
	c.LogOutputs = []string{first, second}
	c.LogLevel = "warn"
	log, err := NewLogger(c)
	require.NoError(t, err)
	log.Info("left out")
	log.Warn("kept", zap.Int("n", 1))
	for _, path := range c.LogOutputs {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var line map[string]any
		require.NoError(t, json.Unmarshal(text, &line))
		require.Equal(t, "kept", line["msg"])
		require.Equal(t, "warn", line["level"])
		require.EqualValues(t, 1, line["n"])
	}

	c.LogFormat = "console"
	c.LogOutputs = []string{filepath.Join(dir, "c.log")}
	log, err = NewLogger(c)
	require.NoError(t, err)
	log.Warn("plain")
	text, err := os.ReadFile(c.LogOutputs[0])
	require.NoError(t, err)
	require.False(t, strings.HasPrefix(string(text), "{"))

	c.LogOutputs = []string{filepath.Join(dir, "missing", "d.log")}
	_, err = NewLogger(c)
	require.ErrorContains(t, err, "--log-outputs")
}

func TestALogFileIsRotated(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	c.LogOutputs = []string{filepath.Join(dir, "coffer.log")}
	c.EnableLogRotation = true
	c.LogRotationConfigJSON = `{"maxsize": 1, "maxbackups": 2}`
	require.NoError(t, func() error { c.KEK = "file:/k"; return c.Validate() }())
	log, err := NewLogger(c)
	require.NoError(t, err)
	long := strings.Repeat("x", 100<<10)
	for i := range 25 {
		log.Info("line", zap.Int("n", i), zap.String("long", long))
	}
	files, err := filepath.Glob(filepath.Join(dir, "coffer*.log"))
	require.NoError(t, err)
	require.Len(t, files, 3)

	c.LogRotationConfigJSON = `{"maxsize": "much"}`
	_, err = NewLogger(c)
	require.ErrorContains(t, err, "log rotation")
}

func TestEqualLinesAreBounded(t *testing.T) {
	c := config.Default()
	c.LogOutputs = []string{filepath.Join(t.TempDir(), "coffer.log")}
	log, err := NewLogger(c)
	require.NoError(t, err)
	for range 10000 {
		log.Warn("rejected connection on client endpoint")
	}
	text, err := os.ReadFile(c.LogOutputs[0])
	require.NoError(t, err)
	require.Less(t, strings.Count(string(text), "\n"), 1000)
}
