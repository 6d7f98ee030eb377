package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdutl runs coffer as etcdutl with the folder's key in the environment.
func (f folder) etcdutl(args ...string) (out, log string, status int) {
	p := start(f.t, "etcdutl", args, "ETCD_KEK=file:"+f.kek())
	status = p.wait()
	return p.out.String(), p.log(), status
}

func TestCalledEtcdutlItReadsSnapshotsAndDataDirectories(t *testing.T) {
	f := newFolder(t)
	p := f.serve("--disk-reserve-bytes=0")
	addr := p.address()
	ctx := context.Background()
	c := dial(t, addr)
	for i := range 5 {
		_, err := c.Put(ctx, fmt.Sprint("k", i), "v")
		require.NoError(t, err)
	}
	_, err := c.Delete(ctx, "k0")
	require.NoError(t, err)
	_, err = c.Compact(ctx, 4, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	want, err := c.HashKV(ctx, addr, 0)
	require.NoError(t, err)
	hash := fmt.Sprintf("%d, 7, 4\n", want.Hash)
	snapshot := filepath.Join(f.path, "snap")
	_, err = coffer(t, "snapshot", "save", snapshot, "--endpoints="+addr)
	require.NoError(t, err)

	out, log, status := f.etcdutl("snapshot", "status", snapshot, "-w", "json")
	require.Zero(t, status, log)
	var s struct {
		Hash                uint32
		Revision            int64
		TotalKey, TotalSize int64
		Version             string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	info, err := os.Stat(snapshot)
	require.NoError(t, err)
	require.Equal(t, []any{int64(7), int64(4), info.Size(), "3.7.0"}, []any{s.Revision, s.TotalKey, s.TotalSize, s.Version})
	out, _, _ = f.etcdutl("--kek=", "snapshot", "status", snapshot, "--write-out=simple")
	require.Equal(t, fmt.Sprintf("%x, 7, 4, %s, 3.7.0\n", s.Hash, humanBytes(s.TotalSize)), out)
	out, _, status = f.etcdutl("hashkv", snapshot)
	require.Zero(t, status)
	require.Equal(t, hash, out)
	_, log, status = f.etcdutl("hashkv", snapshot, "--rev=2")
	require.Equal(t, 1, status)
	require.Contains(t, log, "Error: mvcc: required revision has been compacted")

	_, log, status = f.etcdutl("defrag", "--data-dir", f.data())
	require.Equal(t, 1, status)
	require.Contains(t, log, "is in use by process")
	p.stop()
	out, log, status = f.etcdutl("hashkv", f.data())
	require.Zero(t, status, log)
	require.Equal(t, hash, out)
	_, log, status = f.etcdutl("defrag", "--data-dir", f.data())
	require.Zero(t, status, log)
	require.Contains(t, log, "finished defragmenting directory")

	again := folder{t, t.TempDir()}
	kek, err := os.ReadFile(f.kek())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(again.kek(), kek, 0o600))
	_, log, status = again.etcdutl("snapshot", "restore", snapshot, "--data-dir", again.data(), "--name=m",
		"--initial-cluster=m=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380")
	require.Zero(t, status, log)
	require.Contains(t, log, "added member")
	out, _, _ = again.etcdutl("hashkv", again.data())
	require.Equal(t, hash, out)
}

func TestEtcdutlSaysWhatIsWrongInItsOwnWords(t *testing.T) {
	f := newFolder(t)
	damaged, cut := filepath.Join(f.path, "damaged"), filepath.Join(f.path, "cut")
	require.NoError(t, os.WriteFile(damaged, make([]byte, 512+32), 0o600))
	require.NoError(t, os.WriteFile(cut, make([]byte, 512), 0o600))
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{"snapshot", "restore", damaged, "--data-dir=" + f.data()}, 1, "Error: expected sha256 [0 0"},
		{[]string{"snapshot", "restore", damaged, "--data-dir=" + f.data(), "--skip-hash-check"}, 1, "not one of Coffer's"},
		{[]string{"snapshot", "restore", cut, "--data-dir=" + f.data()}, 1, "Error: snapshot missing hash but --skip-hash-check=false"},
		{[]string{"snapshot", "restore"}, 128, "Error: snapshot restore requires exactly one argument"},
		{[]string{"snapshot", "restore", damaged, "--bump-revision=1"}, 128, "Error: --mark-compacted required if --revision-bump > 0"},
		{[]string{"snapshot", "status"}, 128, "Error: snapshot status requires exactly one argument"},
		{[]string{"snapshot", "status", "none"}, 1, "Error: stat none: no such file or directory"},
		{[]string{"snapshot", "status", damaged, "-w=yaml"}, 4, "Error: unsupported output format"},
		{[]string{"snapshot", "status", damaged, "-w=protobuf"}, 4, "Error: protobuf not supported as output format"},
		{[]string{"defrag", "--data-dir=none"}, 1, "Error: Failed to defragment etcd data[none]"},
		{[]string{"defrag"}, 1, `Error: required flag(s) "data-dir" not set`},
		{[]string{"migrate", "--target-version=3.6"}, 1, "not part of coffer"},
		{[]string{"nonsense"}, 1, `Error: unknown command "nonsense" for "etcdutl"`},
	} {
		_, log, status := f.etcdutl(c.args...)
		require.Equal(t, c.status, status, "%q: %s", c.args, log)
		require.Contains(t, log, c.text, "%q", c.args)
	}
	_, err := os.Stat(f.data())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestReportsAreTables(t *testing.T) {
	var out strings.Builder
	for n, want := range map[int64]string{0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1056: "1.1 kB", 20480: "20 kB", 2 << 30: "2.1 GB"} {
		require.Equal(t, want, humanBytes(n))
	}
	require.NoError(t, report{header: []string{"hash", "revision"}, row: []string{"f97f79f1", "4"}}.print(&out, "table"))
	require.Equal(t, `┌──────────┬──────────┐
│   HASH   │ REVISION │
├──────────┼──────────┤
│ f97f79f1 │        4 │
└──────────┴──────────┘
`, out.String())
}
