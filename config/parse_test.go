package config

import (
	"bufio"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, environ []string, args ...string) *Config {
	t.Helper()
	c, err := Parse(args, environ)
	require.NoError(t, err)
	return c
}

func notes(c *Config) string {
	var b strings.Builder
	for _, n := range c.Notes {
		b.WriteString(n.Text + " " + strings.Join(n.Fields, " ") + "\n")
	}
	return b.String()
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coffer.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestEveryFlagOfEtcdIsKnownWithItsDefault(t *testing.T) {
	f, err := os.Open("testdata/etcd-3.7.3-flags.txt")
	require.NoError(t, err)
	defer f.Close()
	table := newTable(Default())
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		name, quoted, ok := strings.Cut(lines.Text(), "\t")
		require.True(t, ok, lines.Text())
		want, err := strconv.Unquote(quoted)
		require.NoError(t, err)
		if name == "initial-cluster" {
			want = "" // derived from --name and --initial-advertise-peer-urls
		}
		got := table.Lookup(name)
		if !assertFlag(t, got, name) {
			continue
		}
		require.Equal(t, want, got.DefValue, name)
		n++
	}
	require.Greater(t, n, 100)
}

func assertFlag(t *testing.T, f *flag.Flag, name string) bool {
	t.Helper()
	if f == nil {
		t.Errorf("--%s is unknown", name)
	}
	return f != nil
}

func TestCommandLinesFollowGoFlagRules(t *testing.T) {
	for _, tt := range []struct {
		args []string
		err  string
	}{
		{[]string{"-name", "a"}, ""},
		{[]string{"--name=a", "-pre-vote=false"}, ""},
		{[]string{"--nosuch"}, "flag provided but not defined: -nosuch"},
		{[]string{"--name"}, "flag needs an argument: -name"},
		{[]string{"--max-wals", "many"}, `invalid value "many" for flag -max-wals: parse error`},
		{[]string{"--pre-vote=perhaps"}, `invalid boolean value "perhaps" for -pre-vote: parse error`},
		{[]string{"--listen-client-urls", "127.0.0.1:2379"}, `invalid value "127.0.0.1:2379" for flag -listen-client-urls: parse "127.0.0.1:2379": first path segment in URL cannot contain colon`},
		{[]string{"--listen-client-urls", "http://127.0.0.1"}, `invalid value "http://127.0.0.1" for flag -listen-client-urls: URL address does not have the form "host:port": http://127.0.0.1`},
		{[]string{"--listen-peer-urls", "http://127.0.0.1:1/a"}, `invalid value "http://127.0.0.1:1/a" for flag -listen-peer-urls: URL must not contain a path: http://127.0.0.1:1/a`},
		{[]string{"--initial-cluster-state", "old"}, `invalid value "old" for flag -initial-cluster-state: invalid value`},
		{[]string{"--allow-plaintext", "client,all"}, `invalid value "client,all" for flag -allow-plaintext: invalid value "all": one of client, peer, metrics`},
		{[]string{"--feature-gates", "NoSuch=true"}, `invalid value "NoSuch=true" for flag -feature-gates: unrecognized feature gate: NoSuch`},
		{[]string{"--feature-gates", "LeaseCheckpoint"}, `invalid value "LeaseCheckpoint" for flag -feature-gates: missing bool value for LeaseCheckpoint`},
		{[]string{"--feature-gates", "LeaseCheckpoint=x"}, `invalid value "LeaseCheckpoint=x" for flag -feature-gates: invalid value of LeaseCheckpoint=x, err: strconv.ParseBool: parsing "x": invalid syntax`},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			_, err := Parse(tt.args, nil)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			var syntax *SyntaxError
			require.ErrorAs(t, err, &syntax)
			require.Equal(t, tt.err, err.Error())
		})
	}
}

func TestHelpVersionAndStrayArguments(t *testing.T) {
	_, err := Parse([]string{"-h"}, nil)
	require.ErrorIs(t, err, flag.ErrHelp)
	_, err = Parse([]string{"--version"}, nil)
	require.ErrorIs(t, err, ErrVersion)
	_, err = Parse([]string{"stray"}, nil)
	require.EqualError(t, err, `"stray" is not a valid flag`)
	var syntax *SyntaxError
	require.False(t, errors.As(err, &syntax), "a stray argument is a failed start, not a syntax error")
}

func TestEveryFlagHasAnEnvironmentVariable(t *testing.T) {
	require.Equal(t, "ETCD_KEK", EnvName("kek"))
	c := parse(t, []string{
		"ETCD_KEK=file:/k", "ETCD_KEK_CREATE=true", "ETCD_ALLOW_PLAINTEXT=client,peer", "ETCD_DISK_RESERVE_BYTES=0x100000",
		"ETCD_NAME=m1", "ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:1", "ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:1",
		"ETCD_MAX_REQUEST_BYTES=100", "ETCD_DATA_DIR=", "OTHER=1", "PATH=/bin",
	})
	require.Equal(t, "file:/k", c.KEK)
	require.True(t, c.KEKCreate)
	require.Equal(t, []string{"client", "peer"}, c.AllowPlaintext)
	require.EqualValues(t, 1<<20, c.DiskReserveBytes)
	require.Equal(t, "m1", c.Name)
	require.Equal(t, []string{"http://127.0.0.1:1"}, Strings(c.ListenClientURLs))
	require.EqualValues(t, 100, c.MaxRequestBytes)
	require.Equal(t, "m1.etcd", c.DataDir)
	require.Contains(t, notes(c), "recognized and used environment variable variable-name ETCD_NAME variable-value m1")

	_, err := Parse(nil, []string{"ETCD_MAX_WALS=many"})
	require.EqualError(t, err, `invalid value "many" for ETCD_MAX_WALS: parse error`)
}

func TestAVariableShadowedByAFlagIsAnErrorAndAnUnknownOneANote(t *testing.T) {
	for _, name := range []string{"ETCD_NAME=b", "ETCD_NAME="} {
		_, err := Parse([]string{"--name", "a"}, []string{name})
		require.ErrorContains(t, err, "conflicting environment variable ETCD_NAME is shadowed by corresponding command-line flag")
	}
	c := parse(t, []string{"ETCD_NOSUCH=s3cret", "ETCD_VERSION=v3.6"})
	require.Contains(t, notes(c), "unrecognized environment variable environment-variable ETCD_NOSUCH")
	require.NotContains(t, notes(c), "s3cret")
	require.Contains(t, notes(c), "cannot set special environment variable key ETCD_VERSION")
}

func TestSecretsAreNotLogged(t *testing.T) {
	c := parse(t, []string{"ETCD_DISCOVERY_PASSWORD=s3cret", "ETCD_DISCOVERY_USER=root:s3cret"})
	require.NotContains(t, notes(c), "s3cret")
}

func TestWhatFollowsFromOtherSettings(t *testing.T) {
	c := parse(t, nil)
	require.Equal(t, "default.etcd", c.DataDir)
	require.Equal(t, "default=http://localhost:2380", c.InitialCluster)

	c = parse(t, nil, "--name", "m1", "--initial-advertise-peer-urls", "https://10.0.0.1:2380,https://10.0.0.2:2380")
	require.Equal(t, "m1=https://10.0.0.1:2380,m1=https://10.0.0.2:2380", c.InitialCluster)

	c = parse(t, nil, "--listen-client-urls", "http://127.0.0.1:1")
	require.ErrorContains(t, c.Validate(), "--advertise-client-urls is required when --listen-client-urls is set explicitly")

	defer func(f func() string) { defaultHost = f }(defaultHost)
	defaultHost = func() string { return "192.0.2.9" }
	c = parse(t, nil, "--listen-client-urls", "http://0.0.0.0:23790", "--advertise-client-urls", DefaultClientURL, "--listen-peer-urls", "http://0.0.0.0:2380")
	require.Equal(t, []string{"http://192.0.2.9:23790"}, Strings(c.AdvertiseClientURLs))
	require.Equal(t, []string{"http://192.0.2.9:2380"}, Strings(c.AdvertisePeerURLs))
}

func TestAConfigurationFileSwitchesEtcdsOtherSettingsOff(t *testing.T) {
	path := writeFile(t, `
name: from-file
data-dir: /var/lib/coffer
kek: file:/from/file
heartbeat-interval: 50
election-timeout: 500
quota-backend-bytes: 8589934592
watch-progress-notify-interval: 600000000000
grpc-keepalive-interval: 10m
listen-client-urls: https://127.0.0.1:2379,https://127.0.0.1:2381
advertise-client-urls: https://127.0.0.1:2379
pre-vote: false
cors: "*"
initial-cluster-state:
client-transport-security:
  cert-file: /c.pem
  key-file: /k.pem
  client-cert-auth: true
  trusted-ca-file: /ca.pem
  allowed-cn: [a, b]
peer-transport-security:
  auto-tls: yes
  allowed-hostname: ["x", "y"]
  skip-client-san-verification: true
log-outputs: [stderr, /tmp/log]
socket-options: {reuse-port: true}
feature-gates: LeaseCheckpoint=true
enable-v2: true
`)
	c := parse(t, []string{"ETCD_SNAPSHOT_COUNT=1", "ETCD_ALLOW_PLAINTEXT=metrics", "ETCD_NOSUCH=1"},
		"--config-file", path, "--name", "from-flag", "--kek", "file:/from/flag")
	require.Equal(t, "from-file", c.Name)
	require.Equal(t, "file:/from/flag", c.KEK, "Coffer's own flags hold beside a file, and go before it")
	require.Equal(t, []string{"metrics"}, c.AllowPlaintext, "and so do its variables")
	require.EqualValues(t, 10000, c.SnapshotCount)
	require.Equal(t, "/var/lib/coffer", c.DataDir)
	require.EqualValues(t, 50, c.HeartbeatInterval)
	require.EqualValues(t, 8<<30, c.QuotaBackendBytes)
	require.Equal(t, 10*time.Minute, c.WatchProgressNotifyInterval)
	require.Equal(t, 10*time.Minute, c.GRPCKeepAliveInterval)
	require.Len(t, c.ListenClientURLs, 2)
	require.False(t, c.PreVote)
	require.Equal(t, "new", c.InitialClusterState)
	require.Equal(t, TLS{CertFile: "/c.pem", KeyFile: "/k.pem", ClientCertAuth: true, TrustedCAFile: "/ca.pem", AllowedCNs: []string{"a", "b"}}, c.Client)
	require.Equal(t, TLS{Auto: true, AllowedHostnames: []string{"x", "y"}, SkipClientSANVerify: true}, c.Peer)
	require.Equal(t, []string{"/tmp/log", "stderr"}, c.LogOutputs)
	require.True(t, c.SocketReusePort)
	require.True(t, c.Features.Enabled("LeaseCheckpoint"))
	require.Contains(t, notes(c), "unrecognized key in configuration file path "+path+" key enable-v2")
	require.NotContains(t, notes(c), "ETCD_NOSUCH")
	require.NoError(t, c.Validate())
}

func TestAConfigurationFileMayBeNamedByTheEnvironment(t *testing.T) {
	c := parse(t, []string{"ETCD_CONFIG_FILE=" + writeFile(t, "name: a")})
	require.Equal(t, "a", c.Name)

	_, err := Parse([]string{"--config-file", writeFile(t, "name: a"), "--kek", "file:/k"}, []string{"ETCD_KEK=file:/other"})
	require.ErrorContains(t, err, "ETCD_KEK is shadowed")
}

func TestBadConfigurationFilesAreRefusedByName(t *testing.T) {
	for text, want := range map[string]string{
		"name: [":                                "yaml",
		"just a text":                            "not a mapping of settings to values",
		"name: a\nname: b":                       `key "name" already set`,
		"name: {a: b}":                           "name: expected a single value or a list",
		"max-wals: many":                         `invalid value "many" for max-wals: parse error`,
		"listen-peer-urls: nonsense":             `for listen-peer-urls: URL scheme must be http, https, unix, or unixs: nonsense`,
		"client-transport-security: x":           "client-transport-security must be a mapping",
		"corrupt-check-time: 1.5":                "a duration is a whole number of nanoseconds",
		"peer-transport-security: {auto-tls: 7}": `invalid value "7" for peer-transport-security.auto-tls`,
	} {
		path := writeFile(t, text)
		_, err := Parse([]string{"--config-file", path}, nil)
		require.ErrorContains(t, err, "configuration file "+path, text)
		require.ErrorContains(t, err, want, text)
	}
	_, err := Parse([]string{"--config-file", "/nonexistent.yaml"}, nil)
	require.ErrorContains(t, err, "read configuration file: open /nonexistent.yaml")
}

func TestSettingsThatTuneEtcdsEngineAreAcceptedWithANote(t *testing.T) {
	c := parse(t, []string{"ETCD_BACKEND_BATCH_LIMIT=7"}, "--backend-bbolt-freelist-type=map", "--unsafe-no-fsync", "--v2-deprecation=gone",
		"--feature-gates=TxnModeWriteWithSharedBuffer=false", "-v", "--max-snapshots=0")
	for _, setting := range []string{"--backend-batch-limit", "--backend-bbolt-freelist-type", "--unsafe-no-fsync", "--v2-deprecation",
		"--feature-gates TxnModeWriteWithSharedBuffer", "--v ", "--max-snapshots"} {
		require.Contains(t, notes(c), "setting has no effect in Coffer setting "+setting)
	}
}

func TestFeatureGatesFollowEtcdsDefaults(t *testing.T) {
	var f Features
	require.False(t, f.Enabled("LeaseCheckpoint"))
	require.True(t, f.Enabled("FastLeaseKeepAlive"))
	require.NoError(t, f.Set("AllAlpha=true,CompactHashCheck=false"))
	require.True(t, f.Enabled("LeaseCheckpoint"))
	require.False(t, f.Enabled("CompactHashCheck"))
	require.NoError(t, f.Set("AllBeta=false"))
	require.False(t, f.Enabled("FastLeaseKeepAlive"))
	require.Equal(t, "AllAlpha=true,AllBeta=false,CompactHashCheck=false", f.String())
}

func TestHelpNamesEveryFlagThatIsNotRetired(t *testing.T) {
	var b strings.Builder
	require.NoError(t, Help(&b))
	for _, e := range newTable(Default()).entries {
		if !e.retired {
			require.Contains(t, b.String(), "--"+e.name)
		}
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		require.LessOrEqual(t, len(line), 140, line)
	}
}

func TestDefaultsThatAreNumbers(t *testing.T) {
	c := Default()
	require.EqualValues(t, math.MaxUint32, c.MaxConcurrentStreams)
	require.Zero(t, c.Quota())
	c.QuotaBackendBytes = -1
	require.Zero(t, c.Quota())
	c.QuotaBackendBytes = 5
	require.EqualValues(t, 5, c.Quota())
	require.Equal(t, 10, c.ElectionTicks())
}
