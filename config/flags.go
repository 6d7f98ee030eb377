package config

import (
	"flag"
	"io"
	"net/url"
	"time"
)

// An entry is one flag in the order of the help text.
type entry struct {
	name    string
	section string
	arg     string // what the value is, for the help text; "" for a switch
	usage   string
	// own marks a setting of Coffer's: it holds beside a configuration file.
	own bool
	// noEffect says why etcd's setting changes nothing here; "" if it does.
	noEffect string
	// refusal says what to do instead of a setting this version cannot honour; "" if it can.
	refusal string
	// deprecation is etcd's notice that the flag will go, which is logged as it is; "" if it has none.
	deprecation string
	// retired marks a flag that etcd itself only accepts for old times' sake. It is not in the help text.
	retired bool
	// duration marks a value that a configuration file may give as nanoseconds.
	duration bool
	// secret marks a value that is never logged.
	secret bool
}

func (e *entry) ours() *entry                       { e.own = true; return e }
func (e *entry) without(effect string) *entry       { e.noEffect = effect; return e }
func (e *entry) refused(remedy string) *entry       { e.refusal = remedy; return e }
func (e *entry) sensitive() *entry                  { e.secret = true; return e }
func (e *entry) deprecated(notice string) *entry    { e.deprecation = notice; return e }
func (e *entry) old() *entry                        { e.retired = true; return e }
func (e *entry) argument(placeholder string) *entry { e.arg = placeholder; return e }

// table binds every flag to a field of a Config.
type table struct {
	*flag.FlagSet
	entries []*entry
	byName  map[string]*entry
	section string

	configFile   string
	printVersion bool
}

func (t *table) entry(name, arg, usage string) *entry {
	e := &entry{name: name, section: t.section, arg: arg, usage: usage}
	t.entries = append(t.entries, e)
	t.byName[name] = e
	return e
}

func (t *table) text(name string, p *string, usage string) *entry {
	t.StringVar(p, name, *p, usage)
	return t.entry(name, "TEXT", usage)
}

func (t *table) file(name string, p *string, usage string) *entry {
	return t.text(name, p, usage).argument("FILE")
}

func (t *table) toggle(name string, p *bool, usage string) *entry {
	t.BoolVar(p, name, *p, usage)
	return t.entry(name, "", usage)
}

func (t *table) number(name string, p *int, usage string) *entry {
	t.IntVar(p, name, *p, usage)
	return t.entry(name, "N", usage)
}

func (t *table) natural(name string, p *uint, usage string) *entry {
	t.UintVar(p, name, *p, usage)
	return t.entry(name, "N", usage)
}

func (t *table) natural64(name string, p *uint64, usage string) *entry {
	t.Uint64Var(p, name, *p, usage)
	return t.entry(name, "N", usage)
}

func (t *table) integer64(name string, p *int64, usage string) *entry {
	t.Int64Var(p, name, *p, usage)
	return t.entry(name, "N", usage)
}

func (t *table) period(name string, p *time.Duration, usage string) *entry {
	t.DurationVar(p, name, *p, usage)
	e := t.entry(name, "DURATION", usage)
	e.duration = true
	return e
}

func (t *table) value(name string, v flag.Value, arg, usage string) *entry {
	t.Var(v, name, usage)
	return t.entry(name, arg, usage)
}

func (t *table) urls(name string, p *[]url.URL, usage string) *entry {
	return t.value(name, urlsValue{p}, "URL,…", usage)
}

// noPeers is why settings of clusters of several members have no effect.
const noPeers = "clusters of several members are not supported yet"

// newTable returns the table of all flags, bound to c, whose values are the defaults.
func newTable(c *Config) *table {
	t := &table{FlagSet: flag.NewFlagSet("coffer serve", flag.ContinueOnError), byName: map[string]*entry{}}
	t.SetOutput(io.Discard)
	t.Usage = func() {}
	t.cofferFlags(c)
	t.memberFlags(c)
	t.clusterFlags(c)
	t.securityFlags(c)
	t.loggingFlags(c)
	t.observationFlags(c)
	t.engineFlags(c)
	t.retiredFlags()
	return t
}

func (t *table) cofferFlags(c *Config) {
	t.section = "Coffer"
	t.text("kek", &c.KEK, "Key that wraps this member's keyring: file:PATH, 32 random bytes, mode 0600, outside the data directory.").
		argument("URI").ours()
	t.toggle("kek-create", &c.KEKCreate, "Create the key file if it does not exist. Keep a copy of it elsewhere: without it the data cannot be read.").
		ours()
	t.value("allow-plaintext", choicesValue{&c.AllowPlaintext, []string{ClientListener, PeerListener, MetricsListener}}, "LISTENER,…",
		"Let these listeners (client, peer, metrics) speak plain HTTP to addresses that are not loopback: everything sent is then readable on the network.").
		ours()
	t.natural64("disk-reserve-bytes", &c.DiskReserveBytes, "Size of a file that keeps disk space in reserve and is given up when the disk runs full, so that alarms and deletions can still be written.").
		argument("BYTES").ours()
	t.file("config-file", &t.configFile, "Configuration file in etcd's YAML format. etcd's other flags and environment variables are then ignored; Coffer's own still hold.")
	t.toggle("version", &t.printVersion, "Print the version and exit.")
}

func (t *table) memberFlags(c *Config) {
	t.section = "Member"
	t.text("name", &c.Name, "Name of this member.").argument("NAME")
	t.text("data-dir", &c.DataDir, "Data directory. Default: NAME.etcd").argument("DIR")
	t.text("wal-dir", &c.WALDir, "Directory of the journal, if it is to lie outside the data directory.").argument("DIR")
	t.urls("listen-client-urls", &c.ListenClientURLs, "URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is given.")
	t.urls("listen-client-http-urls", &c.ListenClientHTTPURLs, "URLs to listen on for HTTP clients only. Takes HTTP off --listen-client-urls.")
	t.urls("listen-peer-urls", &c.ListenPeerURLs, "URLs to listen on for other members.")
	t.natural64("snapshot-count", &c.SnapshotCount, "Applied entries after which the journal may be cut.")
	t.natural64("snapshot-catchup-entries", &c.SnapshotCatchUpEntries, "Entries kept in the journal for members that lag.")
	t.natural("heartbeat-interval", &c.HeartbeatInterval, "Time between heartbeats, in milliseconds.").argument("MS")
	t.natural("election-timeout", &c.ElectionTimeout, "Time without a leader until an election, in milliseconds.").argument("MS")
	t.toggle("initial-election-tick-advance", &c.InitialElectionTickAdvance, "Shorten the wait for the first election after a start.").
		without("a member that is alone does not wait for an election")
	t.integer64("quota-backend-bytes", &c.QuotaBackendBytes, "Size of the store at which writes stop with NOSPACE; from four fifths of it on the log warns. 0 or less: no limit, and a warning from 8 GiB on. (etcd's 0 is 2 GiB.)").argument("BYTES")
	t.natural("max-txn-ops", &c.MaxTxnOps, "Operations permitted in one transaction.")
	t.natural("max-request-bytes", &c.MaxRequestBytes, "Largest request a client may send, in bytes.").argument("BYTES")
	t.value("max-concurrent-streams", uint32Value{&c.MaxConcurrentStreams}, "N", "Streams that one client connection may have open.")
	t.period("grpc-keepalive-min-time", &c.GRPCKeepAliveMinTime, "Shortest interval at which clients may ping.")
	t.period("grpc-keepalive-interval", &c.GRPCKeepAliveInterval, "Idle time after which the member pings a client. 0: never.")
	t.period("grpc-keepalive-timeout", &c.GRPCKeepAliveTimeout, "Time a client has to answer a ping.")
	t.toggle("socket-reuse-port", &c.SocketReusePort, "Set SO_REUSEPORT on listening sockets.")
	t.toggle("socket-reuse-address", &c.SocketReuseAddress, "Set SO_REUSEADDR on listening sockets.")
	t.toggle("enable-grpc-gateway", &c.EnableGRPCGateway, "Serve the HTTP/JSON gateway.")
	t.toggle("memory-mlock", &c.MemoryMlock, "Lock all of the process's memory. Keys are locked in any case.")
	t.value("feature-gates", &c.Features, "NAME=BOOL,…", "Switch features of etcd on or off. LeaseCheckpoint, InitialCorruptCheck and CompactHashCheck have an effect; the others are accepted.")
}

func (t *table) clusterFlags(c *Config) {
	t.section = "Cluster"
	t.urls("initial-advertise-peer-urls", &c.AdvertisePeerURLs, "This member's peer URLs as other members reach them.")
	t.urls("advertise-client-urls", &c.AdvertiseClientURLs, "This member's client URLs as clients reach them.")
	t.text("initial-cluster", &c.InitialCluster, "Members of a new cluster. Default: this member alone.").argument("NAME=URL,…")
	t.text("initial-cluster-token", &c.InitialClusterToken, "Makes the ids of clusters with the same members different.")
	t.value("initial-cluster-state", choiceValue{&c.InitialClusterState, []string{ClusterStateNew, ClusterStateExisting}}, "new|existing",
		"Whether a member without data starts a new cluster or joins an existing one.")
	t.toggle("strict-reconfig-check", &c.StrictReconfigCheck, "Refuse changes of membership that would lose the quorum.")
	t.toggle("pre-vote", &c.PreVote, "Ask for votes before raising the term.")
	t.number("max-learners", &c.MaxLearners, "Learners the cluster may have.")
	t.text("auto-compaction-mode", &c.AutoCompactionMode, "How --auto-compaction-retention counts.").argument("periodic|revision")
	t.text("auto-compaction-retention", &c.AutoCompactionRetention, "History to keep: a duration or hours (periodic), a number of revisions (revision). 0: all.").argument("RETENTION")

	const noDiscovery = "discovery is not supported: name the members with --initial-cluster"
	var s string
	t.text("discovery-srv", &s, "DNS domain to find members in.").refused(noDiscovery)
	t.text("discovery-srv-name", &s, "Suffix of the DNS service name.").refused(noDiscovery)
	t.text("discovery-token", &s, "Token of a discovery service.").refused(noDiscovery).sensitive()
	t.text("discovery-endpoints", &s, "Endpoints of a discovery service.").refused(noDiscovery)
	var on bool
	t.toggle("force-new-cluster", &on, "Make this member a cluster of its own.").
		refused("not supported: save a snapshot and make a new data directory from it with coffer snapshot restore")
}

func (t *table) securityFlags(c *Config) {
	const callsNoOne = "the member does not call itself over the network"
	t.section = "TLS for clients"
	t.file("cert-file", &c.Client.CertFile, "Certificate shown to clients. Read again when it changes.")
	t.file("key-file", &c.Client.KeyFile, "Its private key.")
	t.toggle("client-cert-auth", &c.Client.ClientCertAuth, "Demand a client certificate signed by --trusted-ca-file.")
	t.file("trusted-ca-file", &c.Client.TrustedCAFile, "Authorities that sign clients' certificates. Naming it demands a client certificate.")
	t.file("client-crl-file", &c.Client.CRLFile, "Certificate revocation list (DER) for clients' certificates.")
	t.value("client-cert-allowed-hostname", listValue{&c.Client.AllowedHostnames}, "NAME,…", "Names of which a client's certificate must carry one.")
	t.file("client-cert-file", &c.Client.ClientCertFile, "Certificate this member shows when it calls itself.").without(callsNoOne)
	t.file("client-key-file", &c.Client.ClientKeyFile, "Its private key.").without(callsNoOne)
	t.toggle("auto-tls", &c.Client.Auto, "Make a self-signed certificate at every start: encrypted, but no client can tell who answers.")

	t.section = "TLS between members"
	t.file("peer-cert-file", &c.Peer.CertFile, "Certificate shown to other members.")
	t.file("peer-key-file", &c.Peer.KeyFile, "Its private key.")
	t.toggle("peer-client-cert-auth", &c.Peer.ClientCertAuth, "Demand a certificate from other members, signed by --peer-trusted-ca-file.")
	t.file("peer-trusted-ca-file", &c.Peer.TrustedCAFile, "Authorities that sign members' certificates.")
	t.file("peer-crl-file", &c.Peer.CRLFile, "Certificate revocation list (DER) for members' certificates.")
	t.value("peer-cert-allowed-cn", listValue{&c.Peer.AllowedCNs}, "NAME,…", "Common names a member's certificate may have.")
	t.value("peer-cert-allowed-hostname", listValue{&c.Peer.AllowedHostnames}, "NAME,…", "Names of which a member's certificate must carry one.")
	t.file("peer-client-cert-file", &c.Peer.ClientCertFile, "Certificate shown when calling other members; else --peer-cert-file.").without(noPeers)
	t.file("peer-client-key-file", &c.Peer.ClientKeyFile, "Its private key.").without(noPeers)
	t.toggle("peer-skip-client-san-verification", &c.Peer.SkipClientSANVerify, "Do not compare the address a member calls from with its certificate.")
	t.toggle("peer-auto-tls", &c.Peer.Auto, "Make a self-signed certificate at every start: encrypted, but unverified.")

	t.section = "TLS in general, HTTP"
	t.natural("self-signed-cert-validity", &c.SelfSignedCertValidity, "Life of the certificates of --auto-tls and --peer-auto-tls, in years.").argument("YEARS")
	t.value("cipher-suites", listValue{&c.CipherSuites}, "NAME,…", "TLS 1.2 cipher suites. Default: Go's.")
	t.text("tls-min-version", &c.TLSMinVersion, "Lowest TLS version: TLS1.2 or TLS1.3.").argument("VERSION")
	t.text("tls-max-version", &c.TLSMaxVersion, "Highest TLS version. Default: the highest there is.").argument("VERSION")
	t.value("cors", originsValue{&c.CORS}, "URL,…", "Origins that browsers may call from; * for all.")
	t.value("host-whitelist", setValue{&c.HostWhitelist}, "NAME,…", "Host names accepted in HTTP requests without TLS; * for all.")

	t.section = "Users"
	t.text("auth-token", &c.AuthToken,
		"Kind of token: simple, or jwt with pub-key=FILE, priv-key=FILE, sign-method=METHOD, ttl=DURATION. See docs/auth.md.").argument("KIND,…")
	t.natural("bcrypt-cost", &c.BcryptCost, "Cost of hashing a password, from 4 to 31: one more takes twice the time. Any other number means 10.")
	t.natural("auth-token-ttl", &c.AuthTokenTTL, "Life of a simple token after its last use, in seconds.").argument("SECONDS")
}

func (t *table) loggingFlags(c *Config) {
	t.section = "Log"
	t.text("log-level", &c.LogLevel, "debug, info, warn, error, panic or fatal.").argument("LEVEL")
	t.text("log-format", &c.LogFormat, "json or console.").argument("FORMAT")
	t.value("log-outputs", setValue{&c.LogOutputs}, "OUTPUT,…", "stderr, stdout, systemd/journal or files. default: stderr.")
	t.toggle("enable-log-rotation", &c.EnableLogRotation, "Rotate the one log file that --log-outputs names.")
	t.text("log-rotation-config-json", &c.LogRotationConfigJSON, "How to rotate: maxsize (MB), maxage (days), maxbackups, localtime, compress.").argument("JSON")
	t.text("logger", &c.Logger, "zap; there is no other.").argument("zap")
}

func (t *table) observationFlags(c *Config) {
	t.section = "Observation"
	t.urls("listen-metrics-urls", &c.ListenMetricsURLs, "Further URLs to serve /metrics and /health on.")
	t.text("metrics", &c.Metrics, "basic, or extensive for histograms of every gRPC method.").argument("basic|extensive")
	t.toggle("enable-pprof", &c.EnablePprof, "Serve profiles under /debug/pprof/ on client URLs. A heap profile may show keys and values.")
	t.period("warning-unary-request-duration", &c.WarningUnaryRequestDuration, "Time after which a request is logged as slow.")
	t.period("warning-apply-duration", &c.WarningApplyDuration, "Time after which applying a request is logged as slow.")
	t.period("watch-progress-notify-interval", &c.WatchProgressNotifyInterval, "Interval of progress notifications to idle watches. 0: 10m.")
	t.period("corrupt-check-time", &c.CorruptCheckTime, "Interval of comparing data between members. 0: never.")
	t.period("compact-hash-check-time", &c.CompactHashCheckTime, "Interval of comparing hashes of compacted revisions between members, if the feature gate CompactHashCheck is on.")
	t.period("downgrade-check-time", &c.DowngradeCheckTime, "Interval of checking the state of a downgrade.").
		without("downgrades of the cluster version are not supported")
}

// engineFlags are accepted so that an etcd command line works; there is nothing here for them to tune.
func (t *table) engineFlags(*Config) {
	t.section = "Accepted for etcd's sake, without effect"
	const (
		bbolt   = "tunes etcd's storage engine"
		files   = "old journal segments go when they are no longer needed"
		peers   = "tunes etcd's transport between members"
		tracing = "distributed tracing is not built in"
		found   = "discovery is not supported"
	)
	var (
		s string
		b bool
		n int
		u uint
		d time.Duration
	)
	t.text("backend-bbolt-freelist-type", &s, "").without(bbolt)
	t.period("backend-batch-interval", &d, "").without(bbolt)
	t.number("backend-batch-limit", &n, "").without(bbolt)
	t.number("compaction-batch-limit", &n, "").without(bbolt)
	t.period("compaction-sleep-interval", &d, "").without(bbolt)
	t.natural("bootstrap-defrag-threshold-megabytes", &u, "").without("there is no defragmentation")
	t.toggle("unsafe-no-fsync", &b, "").without("every acknowledged write is synced")
	five := uint(5)
	t.natural("max-snapshots", &five, "").without(files).deprecated("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.")
	t.natural("max-wals", &five, "").without(files)
	seconds := 5 * time.Second
	t.period("raft-read-timeout", &seconds, "").without(peers)
	t.period("raft-write-timeout", &seconds, "").without(peers)
	t.value("v2-deprecation", choicesValue{new([]string), []string{"write-only", "write-only-skip-check", "write-only-drop-data", "gone"}}, "STAGE", "").
		without("there is no v2 store").
		deprecated("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.")

	t.toggle("enable-distributed-tracing", &b, "").without(tracing)
	address, service := "localhost:4317", "etcd"
	t.text("distributed-tracing-address", &address, "").without(tracing)
	t.text("distributed-tracing-service-name", &service, "").without(tracing)
	t.text("distributed-tracing-instance-id", &s, "").without(tracing)
	t.number("distributed-tracing-sampling-rate", &n, "").without(tracing)

	fallback := "exit"
	t.value("discovery-fallback", choiceValue{&fallback, []string{"exit", "proxy"}}, "exit", "").without(found)
	dial, request, alive, dead := 2*time.Second, 5*time.Second, 2*time.Second, 6*time.Second
	t.period("discovery-dial-timeout", &dial, "").without(found)
	t.period("discovery-request-timeout", &request, "").without(found)
	t.period("discovery-keepalive-time", &alive, "").without(found)
	t.period("discovery-keepalive-timeout", &dead, "").without(found)
	insecure := true
	t.toggle("discovery-insecure-transport", &insecure, "").without(found)
	t.toggle("discovery-insecure-skip-tls-verify", &b, "").without(found)
	t.text("discovery-cert", &s, "").without(found)
	t.text("discovery-key", &s, "").without(found)
	t.text("discovery-cacert", &s, "").without(found)
	t.text("discovery-user", &s, "").without(found).sensitive()
	t.text("discovery-password", &s, "").without(found).sensitive()
}

// retiredFlags are those that etcd itself accepts only because command lines of ten years ago have them.
func (t *table) retiredFlags() {
	for _, name := range []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer",
		"max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv",
		"test.coverprofile", "test.outputdir",
	} {
		t.value(name, discard{}, "", "").without("no longer an option of etcd's either").old()
	}
}
