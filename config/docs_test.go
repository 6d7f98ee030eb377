package config

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheFlagsReferenceIsCurrent compares docs/flags.md with the flags. COFFER_UPDATE_DOCS=1 writes it anew.
func TestTheFlagsReferenceIsCurrent(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Flags\n\nWhat `coffer serve --help` says. `COFFER_UPDATE_DOCS=1 go test ./config` writes this file.\n\n```\n")
	require.NoError(t, Help(&b))
	b.WriteString("```\n")
	const path = "../docs/flags.md"
	if os.Getenv("COFFER_UPDATE_DOCS") == "1" {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(text), b.String())
}
