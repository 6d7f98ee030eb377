package main

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// initialized returns a folder made by coffer init, and the flags of a client of its member at addr.
func initialized(t *testing.T) (dir string, flags func(addr string) []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "member")
	out, err := coffer(t, "init", dir, "--client-port=0", "--peer-port=0")
	require.NoError(t, err)
	require.Contains(t, out, "coffer serve --config-file "+filepath.Join(dir, "coffer.yaml"))
	return dir, func(addr string) []string {
		pki := func(name string) string { return filepath.Join(dir, "pki", name) }
		return []string{"--endpoints=https://" + addr, "--cacert=" + pki("ca.crt"), "--cert=" + pki("client.crt"), "--key=" + pki("client.key")}
	}
}

func TestInitMakesAMemberThatServesOverMutualTLS(t *testing.T) {
	dir, flags := initialized(t)
	for name, mode := range map[string]os.FileMode{"kek": 0o600, "pki/server.key": 0o600, "pki/ca.key": 0o600, "pki": 0o700 | os.ModeDir} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
	}
	_, err := coffer(t, "init", dir)
	require.ErrorContains(t, err, "overwrites nothing")

	p := start(t, "coffer", []string{"serve", "--config-file", filepath.Join(dir, "coffer.yaml")})
	addr := p.address()
	f := &clientFlags{caCert: filepath.Join(dir, "pki/ca.crt")}
	c, err := f.tls()
	require.NoError(t, err)
	anonymous, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + addr}, TLS: c, Logger: zap.NewNop()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { p.waitFor("rejected connection on client endpoint"); cancel() }()
	_, err = anonymous.Get(ctx, "k")
	require.Error(t, err, "without a certificate nobody is served")
	anonymous.Close()

	out, err := coffer(t, append([]string{"keys", "list"}, flags(addr)...)...)
	require.NoError(t, err)
	require.Contains(t, out, "active")
	require.Contains(t, out, "file:"+filepath.Join(dir, "kek"))
}

func TestKeysAreRotated(t *testing.T) {
	dir, flags := initialized(t)
	p := start(t, "coffer", []string{"serve", "--config-file", filepath.Join(dir, "coffer.yaml"), "--disk-reserve-bytes=0"})
	addr := p.address()
	out, err := coffer(t, append([]string{"keys", "rotate"}, flags(addr)...)...)
	require.NoError(t, err)
	require.Contains(t, out, "is active (keyring generation 3)")
	p.waitFor("removed a data key under which nothing is left")
	out, err = coffer(t, append([]string{"keys", "list"}, flags(addr)...)...)
	require.NoError(t, err)
	require.Contains(t, out, "removed")
	p.stop()
	start(t, "coffer", []string{"serve", "--config-file", filepath.Join(dir, "coffer.yaml")}).address()
}

func TestASnapshotIsSavedShownVerifiedAndRestored(t *testing.T) {
	f := newFolder(t)
	p := f.serve()
	addr := p.address()
	ctx := context.Background()
	c := dial(t, addr)
	for range 10 {
		_, err := c.Put(ctx, "key", "s3cret-value")
		require.NoError(t, err)
	}
	snapshot := filepath.Join(f.path, "snap")
	out, err := coffer(t, "snapshot", "save", snapshot, "--endpoints="+addr)
	require.NoError(t, err)
	require.Contains(t, out, "Saved")
	_, err = coffer(t, "snapshot", "save", snapshot, "--endpoints="+addr)
	require.ErrorContains(t, err, "overwrites nothing")
	text, err := os.ReadFile(snapshot)
	require.NoError(t, err)
	require.NotContains(t, string(text), "s3cret-value")
	_, err = coffer(t, "snapshot", "save", filepath.Join(f.path, "none"), "--endpoints=127.0.0.1:1", "--dial-timeout=100ms", "--command-timeout=100ms")
	require.Error(t, err)
	left, err := filepath.Glob(filepath.Join(f.path, "none*"))
	require.NoError(t, err)
	require.Empty(t, left)
	p.stop()

	out, err = coffer(t, "snapshot", "show", snapshot)
	require.NoError(t, err)
	require.Contains(t, out, "Revision: 11")
	require.Contains(t, out, "file:"+f.kek())
	out, err = coffer(t, "snapshot", "verify", snapshot, "--kek=file:"+f.kek())
	require.NoError(t, err)
	require.Contains(t, out, "authentic")

	wrong := filepath.Join(f.path, "wrong")
	require.NoError(t, os.WriteFile(wrong, []byte(strings.Repeat("w", 32)), 0o600))
	_, err = coffer(t, "snapshot", "verify", snapshot, "--kek=file:"+wrong)
	require.Error(t, err)
	text[len(text)/2] ^= 1
	damaged := filepath.Join(f.path, "damaged")
	require.NoError(t, os.WriteFile(damaged, text, 0o600))
	_, err = coffer(t, "snapshot", "verify", damaged, "--kek=file:"+f.kek())
	require.Error(t, err)

	restore := func(from, data string, extra ...string) error {
		_, err := coffer(t, append([]string{"snapshot", "restore", from, "--kek=file:" + f.kek(), "--data-dir=" + data, "--name=m",
			"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster-token=again"}, extra...)...)
		return err
	}
	require.ErrorContains(t, restore(snapshot, f.data()), "is not empty")
	again := folder{t, t.TempDir()}
	require.Error(t, restore(damaged, again.data()))
	names, err := os.ReadDir(again.path)
	require.NoError(t, err)
	require.Empty(t, names, "nothing is left of a restore that failed")
	require.NoError(t, os.WriteFile(again.kek(), []byte(strings.Repeat("\x07", 32)), 0o600))
	require.NoError(t, restore(snapshot, again.data(), "--bump-revision=1000", "--mark-compacted", "--wal-dir="+filepath.Join(again.path, "wal")))
	refuseCutManifest(t, f, func(data string) error { return restore(snapshot, data) })
	p = again.serve("--wal-dir=" + filepath.Join(again.path, "wal"))
	resp, err := dial(t, p.address()).Get(ctx, "key")
	require.NoError(t, err)
	require.Equal(t, "s3cret-value", string(resp.Kvs[0].Value))
	require.EqualValues(t, 1011, resp.Header.Revision)
	require.EqualValues(t, 10, resp.Kvs[0].Version)
}

// refuseCutManifest cuts the MANIFEST of a restored database between two frames, before the first start.
func refuseCutManifest(t *testing.T, f folder, restore func(data string) error) {
	cut := folder{t, t.TempDir()}
	kek, err := os.ReadFile(f.kek())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cut.kek(), kek, 0o600))
	require.NoError(t, restore(cut.data()))
	manifests, err := filepath.Glob(filepath.Join(cut.data(), "db", "MANIFEST-*"))
	require.NoError(t, err)
	newest := manifests[len(manifests)-1]
	text, err := os.ReadFile(newest)
	require.NoError(t, err)
	frame := int(binary.LittleEndian.Uint32(text[512:])) + 32
	require.Less(t, 512+frame, len(text))
	require.NoError(t, os.Truncate(newest, int64(512+frame)))
	before := cut.files()
	p := cut.serve()
	require.NotZero(t, p.wait())
	require.Contains(t, p.log(), filepath.Base(newest))
	require.Equal(t, before, cut.files(), "a refused start changes nothing")
}
