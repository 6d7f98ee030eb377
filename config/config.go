// Package config turns a command line, the environment and a YAML file into the settings of one member.
//
// Coffer takes the place of etcd, so etcd's server flags, their ETCD_… variables and etcd's configuration file are all
// understood, with etcd's names, defaults and rules: flags are parsed by Go's flag package, a variable that is shadowed
// by a flag is an error, an unknown variable a warning, and a configuration file switches etcd's other flags and
// variables off. Coffer's own settings (--kek and its like) hold in every case; a flag or variable goes before the file.
//
// [Parse] reads; [Config.Validate] finds contradictions and settings that would give security away without being told to.
// Both report what an operator can do about it.
package config

import (
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Defaults that have a meaning of their own: a setting that still has its default may be derived from others.
const (
	DefaultName      = "default"
	DefaultClientURL = "http://localhost:2379"
	DefaultPeerURL   = "http://localhost:2380"
)

// Listeners that --allow-plaintext may name.
const (
	ClientListener  = "client"
	PeerListener    = "peer"
	MetricsListener = "metrics"
)

// Values of --initial-cluster-state.
const (
	ClusterStateNew      = "new"
	ClusterStateExisting = "existing"
)

// Config is everything that can be set about one member. Fields carry the unit of their flag; [Default] gives etcd's
// defaults. It is not changed after Parse.
type Config struct {
	// File is the configuration file that was read, or "".
	File string

	Name    string
	DataDir string
	// WALDir is where the journal lies; "" is inside DataDir.
	WALDir string

	// KEK is the URI of the key that wraps the member's keyring, "file:PATH".
	KEK string
	// KEKCreate allows a missing key file to be created.
	KEKCreate bool
	// AllowPlaintext names the listeners that may speak plain HTTP to addresses that are not loopback.
	AllowPlaintext []string
	// DiskReserveBytes is the size of the ballast file that is freed when the disk runs full.
	DiskReserveBytes uint64

	SnapshotCount          uint64
	SnapshotCatchUpEntries uint64
	// HeartbeatInterval and ElectionTimeout are in milliseconds.
	HeartbeatInterval          uint
	ElectionTimeout            uint
	InitialElectionTickAdvance bool
	PreVote                    bool
	StrictReconfigCheck        bool
	MaxLearners                int

	// QuotaBackendBytes is the size at which writes stop with NOSPACE; 0 and less is no limit. See [Config.Quota].
	QuotaBackendBytes    int64
	MaxTxnOps            uint
	MaxRequestBytes      uint
	MaxConcurrentStreams uint32

	GRPCKeepAliveMinTime  time.Duration
	GRPCKeepAliveInterval time.Duration
	GRPCKeepAliveTimeout  time.Duration
	SocketReusePort       bool
	SocketReuseAddress    bool
	EnableGRPCGateway     bool
	MemoryMlock           bool

	ListenPeerURLs       []url.URL
	ListenClientURLs     []url.URL
	ListenClientHTTPURLs []url.URL
	ListenMetricsURLs    []url.URL
	AdvertisePeerURLs    []url.URL
	AdvertiseClientURLs  []url.URL
	// InitialCluster is "" until it is given or derived from Name and AdvertisePeerURLs.
	InitialCluster      string
	InitialClusterToken string
	InitialClusterState string

	AutoCompactionMode      string
	AutoCompactionRetention string

	Client                 TLS
	Peer                   TLS
	SelfSignedCertValidity uint // years
	CipherSuites           []string
	TLSMinVersion          string
	TLSMaxVersion          string
	CORS                   []string
	HostWhitelist          []string

	AuthToken    string
	BcryptCost   uint
	AuthTokenTTL uint // seconds

	EnablePprof bool
	Metrics     string

	Logger                string
	LogOutputs            []string
	LogLevel              string
	LogFormat             string
	EnableLogRotation     bool
	LogRotationConfigJSON string

	WarningUnaryRequestDuration time.Duration
	WarningApplyDuration        time.Duration
	CorruptCheckTime            time.Duration
	CompactHashCheckTime        time.Duration
	WatchProgressNotifyInterval time.Duration
	DowngradeCheckTime          time.Duration

	Features Features

	// Notes are what Parse and Validate have to say that is no error. They are logged once the log is set up.
	Notes []Note

	// refused holds the settings that were given and that this version cannot honour.
	refused []string
	// advertiseClientMissing says that addresses to listen on were given and none to advertise.
	advertiseClientMissing bool
	// given are the flags that were set, in whatever way.
	given map[string]bool
}

// TLS is the files and rules of the client or the peer side.
type TLS struct {
	CertFile, KeyFile             string
	ClientCertFile, ClientKeyFile string
	TrustedCAFile                 string
	ClientCertAuth                bool
	CRLFile                       string
	AllowedCNs, AllowedHostnames  []string
	SkipClientSANVerify           bool
	// Auto asks for a certificate that the member makes for itself.
	Auto bool
}

// Empty reports whether no certificate is named.
func (t TLS) Empty() bool { return t.CertFile == "" && t.KeyFile == "" }

// Note is one line for the log.
type Note struct {
	Warn bool
	Text string
	// Fields are pairs of a name and a value.
	Fields []string
}

// Default returns a configuration in which nothing has been set, with etcd's defaults.
func Default() *Config {
	return &Config{
		Name:             DefaultName,
		DiskReserveBytes: 64 << 20,

		SnapshotCount:              10000,
		SnapshotCatchUpEntries:     5000,
		HeartbeatInterval:          100,
		ElectionTimeout:            1000,
		InitialElectionTickAdvance: true,
		PreVote:                    true,
		StrictReconfigCheck:        true,
		MaxLearners:                1,

		MaxTxnOps:             128,
		MaxRequestBytes:       1.5 * 1024 * 1024,
		MaxConcurrentStreams:  math.MaxUint32,
		GRPCKeepAliveMinTime:  5 * time.Second,
		GRPCKeepAliveInterval: 2 * time.Hour,
		GRPCKeepAliveTimeout:  20 * time.Second,
		EnableGRPCGateway:     true,

		ListenPeerURLs:      mustURLs(DefaultPeerURL),
		ListenClientURLs:    mustURLs(DefaultClientURL),
		AdvertisePeerURLs:   mustURLs(DefaultPeerURL),
		AdvertiseClientURLs: mustURLs(DefaultClientURL),
		InitialClusterToken: "etcd-cluster",
		InitialClusterState: ClusterStateNew,

		AutoCompactionMode:      CompactionPeriodic,
		AutoCompactionRetention: "0",

		SelfSignedCertValidity: 1,
		TLSMinVersion:          "TLS1.2",
		CORS:                   []string{"*"},
		HostWhitelist:          []string{"*"},

		AuthToken:    "simple",
		BcryptCost:   10,
		AuthTokenTTL: 300,

		Metrics: "basic",

		Logger:                "zap",
		LogOutputs:            []string{"default"},
		LogLevel:              "info",
		LogFormat:             "json",
		LogRotationConfigJSON: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`,

		WarningUnaryRequestDuration: 300 * time.Millisecond,
		WarningApplyDuration:        100 * time.Millisecond,
		CompactHashCheckTime:        time.Minute,
		DowngradeCheckTime:          5 * time.Second,

		given: map[string]bool{},
	}
}

func mustURLs(s string) []url.URL { return types.MustNewURLs(strings.Split(s, ",")) }

// Quota returns the size in bytes at which writes stop with NOSPACE, or 0 for none.
func (c *Config) Quota() int64 { return max(c.QuotaBackendBytes, 0) }

// ElectionTicks returns how many heartbeat intervals an election timeout has.
func (c *Config) ElectionTicks() int { return int(c.ElectionTimeout / c.HeartbeatInterval) }

// TickInterval returns the time between two heartbeats.
func (c *Config) TickInterval() time.Duration {
	return time.Duration(c.HeartbeatInterval) * time.Millisecond
}

// InitialMembers returns the peer URLs of every member that InitialCluster names.
func (c *Config) InitialMembers() (types.URLsMap, error) { return types.NewURLsMap(c.InitialCluster) }

// Address is where a listening URL is bound.
type Address struct {
	Network string // "tcp" or "unix"
	Addr    string // host:port, or the path of a socket
	TLS     bool   // https or unixs
}

// ListenAddress returns where u is bound.
func ListenAddress(u url.URL) Address {
	switch u.Scheme {
	case "unix", "unixs":
		return Address{Network: "unix", Addr: u.Host + u.Path, TLS: u.Scheme == "unixs"}
	default:
		return Address{Network: "tcp", Addr: u.Host, TLS: u.Scheme == "https"}
	}
}

// plaintextOffLoopback reports whether u lets anyone on the network read along.
func plaintextOffLoopback(u url.URL) bool {
	if u.Scheme != "http" {
		return false
	}
	host := u.Hostname()
	if host == "localhost" {
		return false
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsLoopback()
}

// Strings returns urls as text.
func Strings(urls []url.URL) []string {
	out := make([]string, len(urls))
	for i := range urls {
		out[i] = urls[i].String()
	}
	return out
}

func (c *Config) note(warn bool, text string, fields ...string) {
	c.Notes = append(c.Notes, Note{Warn: warn, Text: text, Fields: slices.Clone(fields)})
}
