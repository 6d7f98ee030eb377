package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/store"
)

func dial(t *testing.T, addr string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: patience, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAMemberServesStopsAndGoesOn(t *testing.T) {
	f := newFolder(t)
	ctx := context.Background()
	p := f.serve()
	c := dial(t, p.address())
	_, err := c.Put(ctx, "key", "value")
	require.NoError(t, err)
	p.stop()

	p = f.serve()
	c = dial(t, p.address())
	resp, err := c.Get(ctx, "key")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.Equal(t, "value", string(resp.Kvs[0].Value))
	require.EqualValues(t, 2, resp.Header.Revision)
	require.NoError(t, p.cmd.Process.Kill())
	p.wait()

	p = f.serve()
	c = dial(t, p.address())
	resp, err = c.Get(ctx, "key")
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
}

func TestSIGTERMEndsAMemberWithOpenStreams(t *testing.T) {
	p := newFolder(t).serve()
	addr := p.address()
	ctx := context.Background()
	var watches []clientv3.WatchChan
	for range 4 {
		c := dial(t, addr)
		watches = append(watches, c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify()))
		lease, err := c.Grant(ctx, 100)
		require.NoError(t, err)
		alive, err := c.KeepAlive(ctx, lease.ID)
		require.NoError(t, err)
		<-alive
	}
	for _, w := range watches {
		require.True(t, (<-w).Created)
	}
	web, err := http.Get("http://" + addr + "/health")
	require.NoError(t, err)
	defer web.Body.Close()
	// A client that has connected and not said a word yet.
	silent, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer silent.Close()
	t.Logf("SIGTERM to the end of the process: %v", p.stop())
}

func TestASecondSignalEndsAtOnceAndSIGINTIsAsGood(t *testing.T) {
	p := newFolder(t).serve()
	p.address()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 0, p.wait())
}

func TestEveryLineOfTheLogIsJSONAndNoneIsAnError(t *testing.T) {
	f := newFolder(t)
	p := f.serve()
	c := dial(t, p.address())
	_, err := c.Put(context.Background(), "k3y-mark", "v4lue-mark")
	require.NoError(t, err)
	_ = c.Close()
	p.stop()
	p = f.serve()
	p.address()
	p.stop()
	require.Empty(t, p.out.String(), "nothing goes to stdout")
	for _, text := range p.lines {
		require.NotContains(t, text, "k3y-mark")
		require.NotContains(t, text, "v4lue-mark")
		var line struct{ Level, TS, Caller, Msg string }
		require.NoError(t, json.Unmarshal([]byte(text), &line), text)
		require.Contains(t, []string{"debug", "info", "warn"}, line.Level, text)
		_, err := time.Parse("2006-01-02T15:04:05.999999Z0700", line.TS)
		require.NoError(t, err, text)
		require.NotEmpty(t, line.Caller, text)
		require.NotEmpty(t, line.Msg, text)
	}
	for _, text := range []string{`"msg":"ready to serve client requests"`, `"snapshot-catchup-entries":5000`, "serving client traffic insecurely"} {
		require.Contains(t, p.log(), text)
	}
}

func TestCalledEtcdItIsServe(t *testing.T) {
	f := newFolder(t)
	p := start(t, "etcd", f.args())
	p.address()
	p.stop()
	p = start(t, "/usr/local/bin/etcd", []string{"--version"})
	require.Equal(t, 0, p.wait())
	first, _, _ := strings.Cut(p.out.String(), "\n")
	require.Equal(t, "etcd Version: "+version.Version, first)

	p = start(t, "coffer", append([]string{"etcd"}, f.args()...))
	p.address()
}

func TestExitStatusesAreEtcds(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"--version", 0, "etcd Version: " + version.Version + "\n", ""},
		{"--help", 0, "--listen-client-urls URL", ""},
		{"-h", 0, "--kek URI", ""},
		{"--no-such-flag", 2, "", "flag provided but not defined: -no-such-flag"},
		{"--max-wals=many", 2, "", `invalid value "many" for flag -max-wals: parse error`},
		{"stray", 1, "", `\"stray\" is not a valid flag`},
		{"gateway start", 1, "", "etcd gateway is not part of coffer"},
		{"grpc-proxy start", 1, "", "etcd grpc-proxy is not part of coffer"},
		{"--data-dir=d", 1, "", "name one with --kek file:PATH"},
	} {
		p := start(t, "etcd", strings.Fields(tt.args))
		require.Equal(t, tt.status, p.wait(), tt.args)
		require.Contains(t, p.out.String(), tt.stdout, tt.args)
		require.Contains(t, p.log(), tt.stderr, tt.args)
	}
}

func TestSettingsComeFromTheEnvironmentToo(t *testing.T) {
	f := newFolder(t)
	env := []string{"ETCD_NOSUCH=s3cret"}
	for _, arg := range f.args() {
		name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		env = append(env, "ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
	}
	p := start(t, "etcd", nil, env...)
	p.address()
	p.stop()
	require.Contains(t, p.log(), `"msg":"unrecognized environment variable","environment-variable":"ETCD_NOSUCH"`)
	require.NotContains(t, p.log(), "s3cret")

	p = start(t, "etcd", f.args(), "ETCD_NAME=other")
	require.Contains(t, p.fatal(), "conflicting environment variable ETCD_NAME is shadowed by corresponding command-line flag")
}

func TestBadInputIsRefusedWithItsRemedyAndChangesNothing(t *testing.T) {
	write := func(t *testing.T, path string, text []byte, mode os.FileMode) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, text, mode))
		require.NoError(t, os.Chmod(path, mode))
	}
	// overwrite changes bytes of a file in place.
	overwrite := func(t *testing.T, path string, at int64, text string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = file.WriteAt([]byte(text), at)
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	for name, tt := range map[string]struct {
		prepare func(t *testing.T) (folder, []string)
		want    []string // in the error, in this order
	}{
		"a missing KEK": {func(t *testing.T) (folder, []string) {
			f := used(t)
			require.NoError(t, os.Remove(f.kek()))
			return f, nil
		}, []string{"kek"}},
		"a missing KEK of a directory with data, although it might be created": {func(t *testing.T) (folder, []string) {
			f := used(t)
			require.NoError(t, os.Remove(f.kek()))
			return f, []string{"--kek-create"}
		}, []string{"kek"}},
		"a wrong KEK": {func(t *testing.T) (folder, []string) {
			f := used(t)
			write(t, f.kek(), []byte(strings.Repeat("x", 32)), 0o600)
			return f, nil
		}, []string{"KEYRING"}},
		"a short KEK": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			write(t, f.kek(), []byte("short"), 0o600)
			return f, nil
		}, []string{"kek", "32"}},
		"a KEK that the world may read": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			require.NoError(t, os.Chmod(f.kek(), 0o644))
			return f, nil
		}, []string{"kek", "chmod"}},
		"a KEK in the data directory": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			return f, []string{"--kek=file:" + f.data("kek"), "--kek-create"}
		}, []string{"lies inside", "Move it elsewhere"}},
		"a KEK in the data directory by a symbolic link": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			write(t, f.data("kek"), []byte(strings.Repeat("x", 32)), 0o600)
			link := filepath.Join(f.path, "link")
			require.NoError(t, os.Symlink(f.data(), link))
			return f, []string{"--kek=file:" + filepath.Join(link, "kek")}
		}, []string{"lies inside"}},
		"a KEK in the journal's directory": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			wal := t.TempDir()
			return f, []string{"--wal-dir=" + wal, "--kek=file:" + filepath.Join(wal, "kek")}
		}, []string{"lies inside"}},
		"a log in the data directory": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			return f, []string{"--log-outputs=stderr," + f.data("..", "data", "coffer.log")}
		}, []string{"lies inside", "every file is sealed"}},
		"plain HTTP off loopback": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--listen-client-urls=http://0.0.0.0:0"}
		}, []string{"--allow-plaintext client"}},
		"a port in use": {func(t *testing.T) (folder, []string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			return newFolder(t), []string{"--listen-client-urls=http://" + l.Addr().String()}
		}, []string{"another process has this address", "--listen-client-urls"}},
		"an address of another machine": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--listen-peer-urls=https://192.0.2.1:0", "--peer-auto-tls"}
		}, []string{"this machine has no such address", "--listen-peer-urls"}},
		"a certificate and the key of another": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			l := layout{Dir: f.path, Name: "m"}
			require.NoError(t, os.Mkdir(l.path("pki"), 0o700))
			require.NoError(t, l.makeCertificates())
			return f, []string{"--listen-client-urls=https://127.0.0.1:0", "--cert-file=" + l.PKI("server.crt"), "--key-file=" + l.PKI("client.key")}
		}, []string{"server.crt", "client.key", "cannot be used together"}},
		"contradictory flags": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--election-timeout=100", "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"}
		}, []string{"greater than max version", "--election-timeout"}},
		"requests larger than a log entry": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--max-request-bytes=20000000"}
		}, []string{"--max-request-bytes=20000000", "give less"}},
		"a name that is not in the cluster": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--initial-cluster=other=http://127.0.0.1:2380"}
		}, []string{"couldn't find local name", "--name and --initial-cluster must agree"}},
		"a cluster that has other URLs for this member": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--initial-cluster=m=http://127.0.0.1:2390"}
		}, []string{"--initial-advertise-peer-urls", "must agree"}},
		"a data directory of etcd": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			write(t, f.data("member", "snap", "db"), []byte("bolt"), 0o600)
			return f, nil
		}, []string{"is a data directory of etcd", "--data-dir", "make-mirror"}},
		"sealed files of another member": {func(t *testing.T) (folder, []string) {
			f, other := used(t), newFolder(t)
			p := other.serve("--initial-cluster-token=other")
			p.address()
			p.stop()
			for _, dir := range []string{"journal", "db"} {
				require.NoError(t, os.RemoveAll(f.data(dir)))
				require.NoError(t, os.Rename(other.data(dir), f.data(dir)))
			}
			return f, nil
		}, []string{".journal", "member"}},
		"sealed files without a keyring": {func(t *testing.T) (folder, []string) {
			f := used(t)
			require.NoError(t, os.Remove(f.data("KEYRING")))
			return f, nil
		}, []string{"holds sealed files", "KEYRING is missing", "from a copy"}},
		"a database whose journal is gone": {func(t *testing.T) (folder, []string) {
			f := used(t)
			require.NoError(t, os.RemoveAll(f.data("journal")))
			return f, nil
		}, []string{"has a database, but no journal", "--wal-dir", "from a copy"}},
		"a keyring of a newer format": {func(t *testing.T) (folder, []string) {
			f := used(t)
			overwrite(t, f.data("KEYRING"), 8, "\x02\x00")
			return f, nil
		}, []string{"KEYRING", "version 2"}},
		"a journal of a newer format": {func(t *testing.T) (folder, []string) {
			f := used(t)
			segments, err := filepath.Glob(f.data("journal", "*.journal"))
			require.NoError(t, err)
			slices.Sort(segments)
			overwrite(t, segments[0], 8, "\x02\x00")
			return f, nil
		}, []string{".journal", "version 2", "newer program"}},
		"a data directory that is a file": {func(t *testing.T) (folder, []string) {
			f := newFolder(t)
			write(t, f.data(), nil, 0o600)
			return f, nil
		}, []string{"data directory", "not a directory"}},
		"several members": {func(t *testing.T) (folder, []string) {
			return newFolder(t), []string{"--initial-cluster=m=http://127.0.0.1:2380,n=http://127.0.0.1:2390"}
		}, []string{"not supported yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, extra := tt.prepare(t)
			before := f.files()
			message := f.serve(extra...).fatal()
			rest := message
			for _, want := range tt.want {
				i := strings.Index(rest, want)
				require.GreaterOrEqual(t, i, 0, "%q is not (in this order) in: %s", want, message)
				rest = rest[i+len(want):]
			}
			if strings.HasPrefix(name, "sealed files of another") {
				return // the journal may have been looked at as far as to prepare a segment
			}
			require.True(t, maps.Equal(before, f.files()), "nothing may change")
		})
	}
}

func TestTwoProcessesDoNotShareADataDirectory(t *testing.T) {
	f := newFolder(t)
	p := f.serve()
	p.address()
	message := f.serve().fatal()
	require.Contains(t, message, "is in use by process")
	require.Contains(t, message, "--data-dir")
	p.stop()
	f.serve().address()
}

func TestADirectoryThatMayNotBeWrittenIsRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs to become another user")
	}
	f := newFolder(t)
	require.NoError(t, os.Mkdir(f.data(), 0o500))
	if os.Getuid() != 0 {
		require.Contains(t, f.serve().fatal(), "chown")
		return
	}
	// Root may write anywhere: try as nobody, with a copy of the program that nobody may run.
	const nobody = 65534
	dir, err := os.MkdirTemp("", "coffer-nobody-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	self, err := os.Executable()
	require.NoError(t, err)
	in, err := os.Open(self)
	require.NoError(t, err)
	defer in.Close()
	program := filepath.Join(dir, "coffer")
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0o755))
	kek := filepath.Join(dir, "kek")
	require.NoError(t, os.WriteFile(kek, []byte(strings.Repeat("k", 32)), 0o600))
	require.NoError(t, os.Chown(kek, nobody, nobody))

	var log strings.Builder
	cmd := commandAs(nobody, program, append([]string{"serve"}, f.args("--data-dir="+data, "--kek=file:"+kek)...)...)
	cmd.Stderr = &log
	cmd.Dir = dir
	require.Error(t, cmd.Run())
	require.Contains(t, log.String(), "permission denied")
	require.Contains(t, log.String(), "chown")
}

func TestSystemdIsToldWhenTheMemberIsReadyAndWhenItStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.SetDeadline(time.Now().Add(patience)))
	next := func() string {
		b := make([]byte, 100)
		n, err := l.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	f := newFolder(t)
	p := start(t, "coffer", append([]string{"serve"}, f.args()...), "NOTIFY_SOCKET="+path)
	require.Equal(t, "READY=1", next())
	p.stop()
	require.Equal(t, "STOPPING=1", next())
}

func TestAKEKIsCreatedOnlyWhenAsked(t *testing.T) {
	f := newFolder(t)
	require.NoError(t, os.Remove(f.kek()))
	f.serve().fatal()
	_, err := os.Stat(f.kek())
	require.ErrorIs(t, err, fs.ErrNotExist)

	p := f.serve("--kek-create")
	p.address()
	p.stop()
	info, err := os.Stat(f.kek())
	require.NoError(t, err)
	require.EqualValues(t, 32, info.Size())
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	p = f.serve("--kek-create")
	p.address()
}

func TestAFirstStartThatWasCutShortIsBegunAgain(t *testing.T) {
	f := newFolder(t)
	kek, err := kms.Open("file:" + f.kek())
	require.NoError(t, err)
	defer kek.Close()
	id := store.MemberID([]string{"http://127.0.0.1:2380"}, "etcd-cluster")
	require.NoError(t, os.Mkdir(f.data(), 0o700))
	kr, err := keyring.Create(vfs.Default, f.data("KEYRING"), keyring.Member{ClusterID: store.ClusterID([]uint64{id}), MemberID: id}, kek)
	require.NoError(t, err)
	kr.Close()
	require.Contains(t, f.serve("--initial-cluster-token=other").fatal(), "give the settings of the first start")
	f.serve().address()
}

func TestADirectoryOfWhichOnlyTheKeyringIsLeftIsRefused(t *testing.T) {
	f := used(t)
	for _, dir := range []string{"journal", "db"} {
		require.NoError(t, os.RemoveAll(f.data(dir)))
	}
	require.Contains(t, f.serve().fatal(), "they were removed")
}

func TestMetricsHaveTheirOwnListener(t *testing.T) {
	p := newFolder(t).serve("--listen-metrics-urls=http://127.0.0.1:0", "--enable-pprof")
	client := p.address()
	var line struct{ Address string }
	require.NoError(t, json.Unmarshal([]byte(p.waitFor("serving metrics")), &line))
	for _, path := range []string{"/metrics", "/health", "/livez", "/readyz"} {
		resp, err := http.Get("http://" + line.Address + path)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode, path)
	}
	resp, err := http.Get("http://" + client + "/debug/pprof/")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

func TestAutoTLSEncryptsAndLeavesNoKeyOnTheDisk(t *testing.T) {
	f := newFolder(t)
	p := f.serve("--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://127.0.0.1:0", "--auto-tls",
		"--listen-peer-urls=https://127.0.0.1:0", "--peer-auto-tls")
	addr := p.address()
	require.Contains(t, p.log(), "self-signed certificate that no client can verify")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://" + addr + "/health")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	var line struct{ Address string }
	require.NoError(t, json.Unmarshal([]byte(p.waitFor("serving peer traffic")), &line))
	resp, err = client.Get("https://" + line.Address + "/members")
	require.NoError(t, err)
	defer resp.Body.Close()
	var members []struct{ Name string }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&members))
	require.Len(t, members, 1)
	require.Equal(t, "m", members[0].Name)
	for path, text := range f.files() {
		require.NotContains(t, text, "PRIVATE KEY", path)
	}
}

func TestHTTPMayHaveListenersOfItsOwn(t *testing.T) {
	p := newFolder(t).serve("--listen-client-http-urls=http://127.0.0.1:0")
	at := map[string]string{}
	for _, traffic := range []string{"grpc", "http"} {
		var line struct{ Address string }
		require.NoError(t, json.Unmarshal([]byte(p.waitFor(`"traffic":"`+traffic+`"`)), &line))
		at[traffic] = line.Address
	}
	_, err := dial(t, at["grpc"]).Put(context.Background(), "k", "v")
	require.NoError(t, err)
	resp, err := http.Get("http://" + at["http"] + "/health")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	_, err = http.Get("http://" + at["grpc"] + "/health")
	require.Error(t, err)
}

func TestHTTPAndHTTPSMayShareAnAddress(t *testing.T) {
	urls := "http://127.0.0.1:0,https://127.0.0.1:0"
	p := newFolder(t).serve("--listen-client-urls="+urls, "--advertise-client-urls="+urls, "--auto-tls")
	addr := p.address()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, scheme := range []string{"http", "https"} {
		resp, err := client.Get(scheme + "://" + addr + "/health")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
	}
	_, err := dial(t, addr).Put(context.Background(), "k", "v")
	require.NoError(t, err)
}

func TestUnixSocketsAreServed(t *testing.T) {
	f := newFolder(t)
	socket := filepath.Join(f.path, "c.sock")
	p := f.serve("--listen-client-urls=unix://"+socket, "--advertise-client-urls=unix://"+socket)
	p.address()
	c := dial(t, "unix://"+socket)
	_, err := c.Put(context.Background(), "k", "v")
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Kill())
	p.wait()
	// The socket that a killed member left is no obstacle; a living one's is.
	p = f.serve("--listen-client-urls=unix://"+socket, "--advertise-client-urls=unix://"+socket)
	p.address()
	other := newFolder(t)
	require.Contains(t, other.serve("--listen-client-urls=unix://"+socket).fatal(), "another process listens on")
}
