package config

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestContradictionsAreRefusedWithARemedy(t *testing.T) {
	const kek = "--kek=file:/k"
	for _, tt := range []struct {
		name string
		args string
		want string // "" is no error
	}{
		{"a member with a key", kek, ""},
		{"no key", "", "name one with --kek file:PATH"},
		{"a key of an unknown kind", "--kek=vault:x", "only file:PATH is supported"},
		{"a key without a path", "--kek=file:", "names no path"},
		{"plain HTTP for clients off loopback", kek + " --listen-client-urls=http://10.0.0.1:2379 --advertise-client-urls=http://10.0.0.1:2379", "insist with --allow-plaintext client"},
		{"plain HTTP for clients on all addresses", kek + " --listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls=http://10.0.0.1:2379", "insist with --allow-plaintext client"},
		{"plain HTTP for clients, insisted on", kek + " --allow-plaintext=client --listen-client-urls=http://10.0.0.1:2379 --advertise-client-urls=http://10.0.0.1:2379", ""},
		{"plain HTTP for peers, another listener insisted on", kek + " --allow-plaintext=client --listen-peer-urls=http://[2001:db8::1]:2380", "insist with --allow-plaintext peer"},
		{"plain HTTP for metrics", kek + " --listen-metrics-urls=http://10.0.0.1:2381", "insist with --allow-plaintext metrics"},
		{"plain HTTP on loopback", kek + " --listen-metrics-urls=http://127.0.0.1:2381,http://[::1]:2381,http://localhost:2382", ""},
		{"a unix socket", kek + " --listen-client-urls=unix:///run/coffer.sock --advertise-client-urls=unix:///run/coffer.sock", ""},
		{"a name to bind", kek + " --listen-peer-urls=https://example.com:2380 --peer-auto-tls", "expected IP in URL for binding"},
		{"no host to advertise", kek + " --initial-advertise-peer-urls=http://:2380", "unexpected empty host"},
		{"https without a certificate", kek + " --listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1", "give --cert-file and --key-file, or --auto-tls"},
		{"https between members without a certificate", kek + " --listen-peer-urls=https://127.0.0.1:1", "give --peer-cert-file and --peer-key-file, or --peer-auto-tls"},
		{"a certificate without its key", kek + " --cert-file=c", "--cert-file is given without --key-file"},
		{"a key without its certificate", kek + " --peer-key-file=c", "--peer-key-file is given without --peer-cert-file"},
		{"client certificates of any authority", kek + " --cert-file=c --key-file=k --client-cert-auth --listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1", "name the authority"},
		{"self-signed and verified", kek + " --auto-tls --client-cert-auth", "--auto-tls cannot demand client certificates"},
		{"peers self-signed and verified", kek + " --peer-auto-tls --peer-trusted-ca-file=c", "--peer-auto-tls cannot demand"},
		{"two ways to admit members", kek + " --peer-cert-allowed-cn=a --peer-cert-allowed-hostname=b", "exclude each other"},
		{"TLS versions crossed", kek + " --tls-min-version=TLS1.3 --tls-max-version=TLS1.2", "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{"an old TLS version", kek + " --tls-min-version=TLS1.1", "unexpected TLS version"},
		{"cipher suites for TLS 1.3", kek + " --tls-min-version=TLS1.3 --cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "cipher suites cannot be configured"},
		{"an unknown cipher suite", kek + " --cipher-suites=ROT13", `unexpected TLS cipher suite "ROT13"`},
		{"a fast election", kek + " --election-timeout=400", "should be at least as 5 times"},
		{"a slow election", kek + " --election-timeout=50001", "is too long"},
		{"no heartbeat", kek + " --heartbeat-interval=0", "--heartbeat-interval must be >0"},
		{"clients and members on one port", kek + " --listen-peer-urls=http://localhost:2379", "cannot share an address"},
		{"http and https on one port", kek + " --auto-tls --listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:1 --advertise-client-urls=http://127.0.0.1:1", ""},
		{"gRPC and HTTP-only on one port", kek + " --listen-client-http-urls=http://localhost:2379", "cannot share an address"},
		{"any ports", kek + " --listen-peer-urls=http://localhost:0 --listen-metrics-urls=http://localhost:0", ""},
		{"discovery", kek + " --discovery-srv=example.com", "name the members with --initial-cluster"},
		{"force-new-cluster", kek + " --force-new-cluster", "coffer snapshot restore"},
		{"force-new-cluster off", kek + " --force-new-cluster=false", ""},
		{"the journal in the data directory itself", kek + " --data-dir=/a --wal-dir=/a/", "--wal-dir is the data directory"},
		{"two outputs, one by default", kek + " --log-outputs=default,stdout", "cannot be combined"},
		{"rotation without a file", kek + " --enable-log-rotation", "requires exactly one file"},
		{"rotation of two files", kek + " --enable-log-rotation --log-outputs=/a,/b", "requires exactly one file"},
		{"rotation settings that are no JSON", kek + " --enable-log-rotation --log-outputs=/a --log-rotation-config-json={", "not valid JSON"},
		{"a log level", kek + " --log-level=loud", "unknown log level"},
		{"a log format", kek + " --log-format=xml", "unknown log format"},
		{"a logger", kek + " --logger=capnslog", "unknown logger option"},
		{"a compaction mode", kek + " --auto-compaction-mode=never", "unknown auto-compaction-mode"},
		{"a retention", kek + " --auto-compaction-retention=long", "takes a duration such as 30m"},
		{"a metrics level", kek + " --metrics=all", "neither basic nor extensive"},
		{"persistence of checkpoints without checkpoints", kek + " --feature-gates=LeaseCheckpointPersist=true", "requires enabling feature gate LeaseCheckpoint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse(strings.Fields(tt.args), nil)
			require.NoError(t, err)
			err = c.Validate()
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.want)
			}
		})
	}
}

func TestSeveralMistakesAreReportedTogether(t *testing.T) {
	c, err := Parse([]string{"--log-level=loud", "--metrics=all"}, nil)
	require.NoError(t, err)
	err = c.Validate()
	for _, want := range []string{"--kek", "unknown log level", "neither basic nor extensive"} {
		require.ErrorContains(t, err, want)
	}
}

func TestAutoCompactionRetention(t *testing.T) {
	for _, tt := range []struct {
		mode, retention string
		keep            time.Duration
		revisions       int64
	}{
		{CompactionPeriodic, "0", 0, 0},
		{CompactionPeriodic, "", 0, 0},
		{CompactionPeriodic, "2", 2 * time.Hour, 0},
		{CompactionPeriodic, "30m", 30 * time.Minute, 0},
		{CompactionRevision, "1000", 0, 1000},
	} {
		c := Default()
		c.AutoCompactionMode, c.AutoCompactionRetention = tt.mode, tt.retention
		keep, revisions, err := c.AutoCompaction()
		require.NoError(t, err)
		require.Equal(t, tt.keep, keep)
		require.Equal(t, tt.revisions, revisions)
	}
}
