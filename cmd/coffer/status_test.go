package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestStatusSaysHowAMemberIs(t *testing.T) {
	dir, flags := initialized(t)
	p := start(t, "coffer", []string{"serve", "--config-file", filepath.Join(dir, "coffer.yaml"), "--disk-reserve-bytes=0"})
	addr := p.address()
	ask := func(more ...string) (overview, error) {
		out, err := coffer(t, append(append([]string{"status", "-w=json"}, flags(addr)...), more...)...)
		var o overview
		require.NoError(t, json.Unmarshal([]byte(out), &o), out)
		return o, err
	}
	o, err := ask()
	require.NoError(t, err)
	require.Len(t, o.Members, 1)
	m := o.Members[0]
	require.Equal(t, []string{"open", "leader", "file:" + filepath.Join(dir, "kek")}, []string{m.State, m.Role, m.KEKs[0].URI})
	require.Equal(t, filepath.Join(dir, "pki/server.crt"), m.Certificates[0].File)
	require.InDelta(t, 365, time.Until(m.Certificates[0].NotAfter).Hours()/24, 2)
	require.WithinDuration(t, time.Now(), *m.OldestKey, time.Hour)
	require.Nil(t, m.LastSnapshot)
	require.Empty(t, m.Warnings)

	_, err = coffer(t, append([]string{"snapshot", "save", filepath.Join(t.TempDir(), "s")}, flags(addr)...)...)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "notes"), []byte("mine"), 0o600))
	o, err = ask("--endpoints=https://127.0.0.1:1", "--dial-timeout=100ms", "--command-timeout=2s")
	require.ErrorContains(t, err, "exit status 1")
	require.Equal(t, "unknown", o.Members[1].State)
	require.NotEmpty(t, o.Members[1].Error)
	require.WithinDuration(t, time.Now(), *o.Members[0].LastSnapshot, time.Minute)
	require.Len(t, o.Members[0].Warnings, 1)
	require.Contains(t, o.Members[0].Warnings[0], "notes")

	out, err := coffer(t, append([]string{"status"}, flags(addr)...)...)
	require.NoError(t, err)
	require.Contains(t, out, "https://"+addr+": open\n")
	require.Contains(t, out, "WARNING")
}

func TestStatusAndKeysNeedRootWhereThereAreUsers(t *testing.T) {
	addr := newFolder(t).serve("--bcrypt-cost=4", "--disk-reserve-bytes=0").address()
	c, ctx := dial(t, addr), context.Background()
	for _, user := range []string{"root", "guest"} {
		_, err := c.UserAdd(ctx, user, "secret")
		require.NoError(t, err)
	}
	_, err := c.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = c.AuthEnable(ctx)
	require.NoError(t, err)
	for _, command := range [][]string{{"status"}, {"keys", "list"}} {
		_, err = coffer(t, append(command, "--endpoints="+addr)...)
		require.Error(t, err)
		_, err = coffer(t, append(command, "--endpoints="+addr, "--user=guest:secret")...)
		require.Error(t, err)
		_, err = coffer(t, append(command, "--endpoints="+addr, "--user=root")...)
		require.ErrorContains(t, err, "1")
		_, err = coffer(t, append(command, "--endpoints="+addr, "--user=root", "--password=secret")...)
		require.NoError(t, err)
	}
}

func TestASealedMemberIsExitStatus2(t *testing.T) {
	require.NoError(t, overview{Members: []memberStatus{{State: "open"}}}.err())
	require.Equal(t, 1, exitStatus(overview{Members: []memberStatus{{State: "open"}, {State: "unknown", Error: "?"}}}.err()))
	require.Equal(t, 2, exitStatus(overview{Members: []memberStatus{{State: "unknown", Error: "?"}, {State: "sealed"}}}.err()))
}

func TestEveryCommandHasAManualPageAndIsInTheDocumentation(t *testing.T) {
	dir := t.TempDir()
	_, err := coffer(t, "man", dir)
	require.NoError(t, err)
	serve, err := os.ReadFile(filepath.Join(dir, "coffer-serve.1"))
	require.NoError(t, err)
	require.Contains(t, string(serve), "--listen-client-urls")
	text, err := os.ReadFile("../../docs/commands.md")
	require.NoError(t, err)
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			require.NotEmpty(t, sub.Short)
			require.Contains(t, string(text), "`"+sub.Name())
			check(sub)
		}
	}
	root := rootCommand()
	for _, sub := range root.Commands() {
		require.Contains(t, string(text), "`coffer "+sub.Name())
		check(sub)
	}
}
