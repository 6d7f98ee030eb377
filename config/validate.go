package config

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Values of --auto-compaction-mode.
const (
	CompactionPeriodic = "periodic"
	CompactionRevision = "revision"
)

// maxElectionTimeout is etcd's upper bound, in milliseconds.
const maxElectionTimeout = 50000

// Validate returns every contradiction and every refusal it finds, joined, each with what to do about it. It reads no
// file and opens no socket. It adds to Notes what is allowed and deserves a warning.
func (c *Config) Validate() error {
	var errs []error
	for _, r := range c.refused {
		errs = append(errs, errors.New(r))
	}
	for _, check := range []func() error{
		c.checkKEK, c.checkAddresses, c.checkPlaintext, c.checkClientTLS, c.checkPeerTLS, c.checkTLSVersions,
		c.checkRaft, c.checkLog, c.checkRest,
	} {
		errs = append(errs, check())
	}
	return errors.Join(errs...)
}

// Remedy for a member that was given no key. It is text of its own because the command line prints it too.
const noKEK = "no key-encryption key: name one with --kek file:PATH. " +
	"To make one: `coffer init DIR` (with certificates and a configuration file), or add --kek-create, " +
	"or: umask 077; head -c 32 /dev/urandom > PATH. Keep a copy of it where the data is not"

func (c *Config) checkKEK() error {
	switch {
	case c.KEK == "":
		return errors.New(noKEK)
	case !strings.HasPrefix(c.KEK, "file:"):
		return fmt.Errorf("--kek %s: only file:PATH is supported", c.KEK)
	case c.KEK == "file:":
		return errors.New("--kek file: names no path")
	}
	return nil
}

func (c *Config) checkAddresses() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("--name must not be empty"))
	}
	if c.Name == DefaultName {
		c.note(true, "it isn't recommended to use default name, please set a value for --name", "name", c.Name)
	}
	for _, l := range []struct {
		flag string
		urls []url.URL
	}{
		{"listen-peer-urls", c.ListenPeerURLs},
		{"listen-client-urls", c.ListenClientURLs},
		{"listen-client-http-urls", c.ListenClientHTTPURLs},
		{"listen-metrics-urls", c.ListenMetricsURLs},
	} {
		for _, u := range l.urls {
			if err := checkBindURL(u); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", l.flag, err))
			}
		}
	}
	if c.advertiseClientMissing {
		errs = append(errs, errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly"))
	}
	for _, a := range []struct {
		flag string
		urls []url.URL
	}{
		{"initial-advertise-peer-urls", c.AdvertisePeerURLs},
		{"advertise-client-urls", c.AdvertiseClientURLs},
	} {
		for _, u := range a.urls {
			if u.Scheme != "unix" && u.Scheme != "unixs" && u.Hostname() == "" {
				errs = append(errs, fmt.Errorf(`--%s %q must be "host:port" (unexpected empty host)`, a.flag, u.String()))
			}
		}
	}
	if c.WALDir != "" && filepath.Clean(c.WALDir) == filepath.Clean(c.DataDir) {
		errs = append(errs, errors.New("--wal-dir is the data directory: leave it out, or name another directory"))
	}
	return errors.Join(append(errs, c.checkCollisions())...)
}

// checkCollisions finds addresses that two listeners would share although they cannot. Client URLs may share one.
func (c *Config) checkCollisions() error {
	type user struct{ flag, url string }
	taken := map[string]user{}
	var errs []error
	claim := func(flag string, urls []url.URL, mayShare bool) {
		for _, u := range urls {
			a := ListenAddress(u)
			if a.Network == "tcp" && u.Port() == "0" {
				continue
			}
			before, ok := taken[a.Network+a.Addr]
			if ok && !(mayShare && before.flag == flag) {
				errs = append(errs, fmt.Errorf("--%s %s and --%s %s cannot share an address: change one of them", before.flag, before.url, flag, u.String()))
			}
			taken[a.Network+a.Addr] = user{flag, u.String()}
		}
	}
	claim("listen-client-urls", c.ListenClientURLs, true)
	claim("listen-client-http-urls", c.ListenClientHTTPURLs, true)
	claim("listen-peer-urls", c.ListenPeerURLs, false)
	claim("listen-metrics-urls", c.ListenMetricsURLs, false)
	return errors.Join(errs...)
}

func checkBindURL(u url.URL) error {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		if ListenAddress(u).Addr == "" {
			return fmt.Errorf("%s names no socket: write %s://PATH", u.String(), u.Scheme)
		}
		return nil
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		return err
	}
	if host != "localhost" && net.ParseIP(host) == nil {
		return fmt.Errorf("expected IP in URL for binding (%s)", u.String())
	}
	return nil
}

func (c *Config) checkPlaintext() error {
	var errs []error
	check := func(listener, flag, tls string, urls []url.URL) {
		for _, u := range urls {
			if !plaintextOffLoopback(u) {
				continue
			}
			if slices.Contains(c.AllowPlaintext, listener) {
				c.note(true, "plain HTTP off loopback: everything sent is readable on the network", "listener", listener, "url", u.String())
				continue
			}
			errs = append(errs, fmt.Errorf(
				"--%s %s would send everything in the clear over the network: use https:// with %s, listen on 127.0.0.1, "+
					"or insist with --allow-plaintext %s", flag, u.String(), tls, listener))
		}
	}
	check(ClientListener, "listen-client-urls", "--cert-file and --key-file", c.ListenClientURLs)
	check(ClientListener, "listen-client-http-urls", "--cert-file and --key-file", c.ListenClientHTTPURLs)
	check(PeerListener, "listen-peer-urls", "--peer-cert-file and --peer-key-file", c.ListenPeerURLs)
	check(MetricsListener, "listen-metrics-urls", "--cert-file and --key-file", c.ListenMetricsURLs)
	return errors.Join(errs...)
}

func (c *Config) checkClientTLS() error {
	var errs []error
	t := c.Client
	urls := slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)
	secure := slices.ContainsFunc(urls, func(u url.URL) bool { return ListenAddress(u).TLS })
	errs = append(errs, t.checkPair("", secure))
	if t.Empty() && !t.Auto && slices.ContainsFunc(c.ListenMetricsURLs, func(u url.URL) bool { return ListenAddress(u).TLS }) {
		errs = append(errs, errors.New("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"))
	}
	if t.Auto && !t.Empty() {
		c.note(true, "ignoring client auto TLS since certs given")
	}
	if t.Auto && t.Empty() {
		c.note(true, "client listeners are encrypted with a self-signed certificate that no client can verify")
		if t.ClientCertAuth || t.TrustedCAFile != "" {
			errs = append(errs, errors.New("--auto-tls cannot demand client certificates: give --cert-file and --key-file, or leave out --client-cert-auth and --trusted-ca-file"))
		}
	}
	for _, u := range slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs) {
		if u.Scheme == "http" || u.Scheme == "unix" {
			if !t.Empty() {
				c.note(true, "scheme is http or unix while key and cert files are present; ignoring key and cert files", "client-url", u.String())
			}
			if t.ClientCertAuth {
				c.note(true, "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL", "client-url", u.String())
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkPeerTLS() error {
	var errs []error
	t := c.Peer
	secure := slices.ContainsFunc(c.ListenPeerURLs, func(u url.URL) bool { return ListenAddress(u).TLS })
	errs = append(errs, t.checkPair("peer-", secure))
	if t.Auto && !t.Empty() {
		c.note(true, "ignoring peer auto TLS since certs given")
	}
	if t.Auto && t.Empty() {
		c.note(true, "traffic between members is encrypted with self-signed certificates that nobody verifies")
		if t.ClientCertAuth || t.TrustedCAFile != "" {
			errs = append(errs, errors.New("--peer-auto-tls cannot demand certificates of other members: give --peer-cert-file and --peer-key-file, or leave out --peer-client-cert-auth and --peer-trusted-ca-file"))
		}
	}
	if secure && !t.Auto && !t.ClientCertAuth && t.TrustedCAFile == "" {
		c.note(true, "any host that reaches the peer port may act as a member: demand certificates with --peer-client-cert-auth and --peer-trusted-ca-file")
	}
	return errors.Join(errs...)
}

// checkPair checks one side's files. prefix is "" or "peer-"; secure says that a listener of that side speaks TLS.
func (t TLS) checkPair(prefix string, secure bool) error {
	var errs []error
	pair := func(cert, key, certFlag, keyFlag string) {
		switch {
		case cert != "" && key == "":
			errs = append(errs, fmt.Errorf("--%s is given without --%s", certFlag, keyFlag))
		case cert == "" && key != "":
			errs = append(errs, fmt.Errorf("--%s is given without --%s", keyFlag, certFlag))
		}
	}
	pair(t.CertFile, t.KeyFile, prefix+"cert-file", prefix+"key-file")
	pair(t.ClientCertFile, t.ClientKeyFile, prefix+"client-cert-file", prefix+"client-key-file")
	if secure && t.Empty() && !t.Auto {
		errs = append(errs, fmt.Errorf("a URL has the scheme https (or unixs) and there is no certificate: give --%scert-file and --%skey-file, or --%sauto-tls", prefix, prefix, prefix))
	}
	if secure && t.ClientCertAuth && t.TrustedCAFile == "" {
		errs = append(errs, fmt.Errorf("--%sclient-cert-auth without --%strusted-ca-file would admit a certificate of any authority this machine trusts: name the authority", prefix, prefix))
	}
	if len(t.AllowedCNs) > 0 && len(t.AllowedHostnames) > 0 {
		errs = append(errs, fmt.Errorf("allowed common names %q and allowed host names %q (%sclient certificates) exclude each other: give one of them", t.AllowedCNs, t.AllowedHostnames, prefix))
	}
	return errors.Join(errs...)
}

func (c *Config) checkTLSVersions() error {
	var errs []error
	lowest, err := TLSVersion(c.TLSMinVersion)
	errs = append(errs, err)
	highest, err := TLSVersion(c.TLSMaxVersion)
	errs = append(errs, err)
	if highest != 0 && lowest > highest {
		errs = append(errs, fmt.Errorf("min version (%s) is greater than max version (%s)", c.TLSMinVersion, c.TLSMaxVersion))
	}
	if lowest == tls.VersionTLS13 && len(c.CipherSuites) > 0 {
		errs = append(errs, errors.New("cipher suites cannot be configured when only TLS1.3 is enabled"))
	}
	_, err = c.CipherSuiteIDs()
	return errors.Join(append(errs, err)...)
}

// TLSVersion returns the version of the given name; 0, which leaves it to Go, for "".
func TLSVersion(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	default:
		return 0, fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", name)
	}
}

// CipherSuiteIDs returns the cipher suites that were named.
func (c *Config) CipherSuiteIDs() ([]uint16, error) {
	known := map[string]uint16{
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		known[suite.Name] = suite.ID
	}
	var ids []uint16
	for _, name := range c.CipherSuites {
		id, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unexpected TLS cipher suite %q", name)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (c *Config) checkRaft() error {
	switch {
	case c.HeartbeatInterval == 0:
		return errors.New("--heartbeat-interval must be >0 (set to 0ms)")
	case c.ElectionTimeout == 0:
		return errors.New("--election-timeout must be >0 (set to 0ms)")
	case 5*c.HeartbeatInterval > c.ElectionTimeout:
		return fmt.Errorf("--election-timeout[%dms] should be at least as 5 times as --heartbeat-interval[%dms]", c.ElectionTimeout, c.HeartbeatInterval)
	case c.ElectionTimeout > maxElectionTimeout:
		return fmt.Errorf("--election-timeout[%dms] is too long, and should be set less than %dms", c.ElectionTimeout, maxElectionTimeout)
	}
	return nil
}

func (c *Config) checkLog() error {
	if c.Logger != "zap" {
		return fmt.Errorf("unknown logger option %q: the only one is zap", c.Logger)
	}
	if c.LogFormat != "json" && c.LogFormat != "console" {
		return fmt.Errorf("unknown log format: %s, supported values json, console", c.LogFormat)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error", "dpanic", "panic", "fatal"}, c.LogLevel) {
		return fmt.Errorf("unknown log level %q: one of debug, info, warn, error, panic, fatal", c.LogLevel)
	}
	if len(c.LogOutputs) > 1 && slices.Contains(c.LogOutputs, "default") {
		return errors.New("--log-outputs: default cannot be combined with other outputs; write stderr instead")
	}
	if !c.EnableLogRotation {
		return nil
	}
	if !json.Valid([]byte(c.LogRotationConfigJSON)) {
		return errors.New("--log-rotation-config-json is not valid JSON")
	}
	if len(c.LogFiles()) != 1 {
		return errors.New("--enable-log-rotation requires exactly one file in --log-outputs")
	}
	return nil
}

// LogFiles returns the log outputs that are files.
func (c *Config) LogFiles() []string {
	var files []string
	for _, out := range c.LogOutputs {
		if !slices.Contains([]string{"default", "stderr", "stdout", "systemd/journal", "/dev/null"}, out) {
			files = append(files, out)
		}
	}
	return files
}

func (c *Config) checkRest() error {
	var errs []error
	if _, _, err := c.AutoCompaction(); err != nil {
		errs = append(errs, err)
	}
	if c.CompactHashCheckTime <= 0 {
		errs = append(errs, fmt.Errorf("--compact-hash-check-time must be >0 (set to %v)", c.CompactHashCheckTime))
	}
	if c.Metrics != "basic" && c.Metrics != "extensive" {
		errs = append(errs, fmt.Errorf("--metrics %q is neither basic nor extensive", c.Metrics))
	}
	if c.Features.Enabled("LeaseCheckpointPersist") && !c.Features.Enabled("LeaseCheckpoint") {
		errs = append(errs, errors.New("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"))
	}
	if c.MaxTxnOps == 0 {
		errs = append(errs, errors.New("--max-txn-ops must be >0"))
	}
	return errors.Join(errs...)
}

// AutoCompaction returns what to keep: a time, or a number of revisions, or neither. A retention without a unit is in
// hours in periodic mode.
func (c *Config) AutoCompaction() (keep time.Duration, revisions int64, err error) {
	retention := c.AutoCompactionRetention
	if retention == "" {
		retention = "0"
	}
	n, numberErr := strconv.Atoi(retention)
	isNumber := numberErr == nil && n >= 0
	switch c.AutoCompactionMode {
	case CompactionRevision:
		if isNumber {
			return 0, int64(n), nil
		}
		return 0, 0, fmt.Errorf("--auto-compaction-retention %q: mode revision takes a number of revisions", retention)
	case CompactionPeriodic:
		if isNumber {
			return time.Duration(n) * time.Hour, 0, nil
		}
		keep, err = time.ParseDuration(retention)
		if err != nil || keep < 0 {
			return 0, 0, fmt.Errorf("--auto-compaction-retention %q: mode periodic takes a duration such as 30m or a number of hours", retention)
		}
		return keep, 0, nil
	case "":
		return 0, 0, errors.New("undefined auto-compaction-mode")
	default:
		return 0, 0, fmt.Errorf("unknown auto-compaction-mode %q", c.AutoCompactionMode)
	}
}
