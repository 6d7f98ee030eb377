// Package api speaks etcd's v3 protocol for a Coffer member: gRPC services, the HTTP and JSON gateway in front of them,
// health endpoints, and Coffer's own administrative service.
//
// It translates and decides nothing. A request is checked as far as that needs no state, handed to raftnode or to store,
// and what comes back is turned into what etcd would have sent: response headers, error codes and texts, the order of
// messages in a stream. A client must not be able to tell the difference, so wherever etcd's behaviour is odd, this
// package is odd in the same way and says so.
//
// Every request carries its caller downwards, as the transport proved it (package identity). The log never contains keys,
// values or anything else of a request but sizes and counts.
package api

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/cofferpb"
	"github.com/cofferkv/coffer/api/v3electionpb"
	"github.com/cofferkv/coffer/api/v3lockpb"
	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
)

// Options configures an API. The fields up to MemberID are required; the zero value of any other means its default.
type Options struct {
	Node  *raftnode.Node
	Store *store.Store
	// Keyring and FS seal the member's files, SealedDirs are where these are.
	Keyring    *keyring.Keyring
	FS         *seal.FS
	SealedDirs []string
	// ClusterID and MemberID are named in every response header.
	ClusterID, MemberID uint64

	// Version is Coffer's. Certificates returns those that the member shows and checks others by; nil for none.
	Version      string
	Certificates func() []Certificate

	// MaxTxnOps bounds each list of operations in a transaction; default 128.
	MaxTxnOps int
	// MaxRequestBytes is the size of the largest request the member takes; default 1.5 MiB. A message may be somewhat
	// larger than that on the wire.
	MaxRequestBytes int
	// MaxConcurrentStreams bounds the streams of one connection; default no bound.
	MaxConcurrentStreams uint32
	// KeepAliveMinTime is how often a client may ping, default 5 s. KeepAliveInterval is after how much silence the
	// server pings, default 2 h, and KeepAliveTimeout how long it waits for the answer, default 20 s. A negative
	// duration leaves gRPC's own default in force.
	KeepAliveMinTime, KeepAliveInterval, KeepAliveTimeout time.Duration

	// Tick and ElectionTicks are the cluster's heartbeat interval, default 100 ms, and the ticks in an election timeout,
	// default 10. They decide the shortest lease, and when streams that need a leader end for want of one.
	Tick          time.Duration
	ElectionTicks int
	// QuotaBytes is what Status reports as the quota; 0 is none. LargeBytes is from which size of the store on Coffer's own
	// status warns of it; 0 is never.
	QuotaBytes, LargeBytes int64

	// WarnRequestDuration is from when on a unary request is logged as slow; default 300 ms.
	WarnRequestDuration time.Duration
	// WarnReadDuration is from when on reading the store for a request is logged as slow; default 100 ms.
	WarnReadDuration time.Duration
	// ExtensiveMetrics adds a histogram of the time each RPC takes.
	ExtensiveMetrics bool

	// DisableGateway leaves out HTTP and JSON; health, version and metrics are always served.
	DisableGateway bool
	// CORS are the origins whose pages may use the gateway, and HostWhitelist the host names under which it may be
	// addressed without TLS. "*" or an empty list means all.
	CORS, HostWhitelist []string

	// ClientCertAuth makes the common name of a client's certificate the name of the user, if no token names another.
	ClientCertAuth bool
	// BcryptCost is the cost of hashing a password, default 10.
	BcryptCost int

	// Logger receives the log; nil for none.
	Logger *zap.Logger
}

const (
	defaultMaxTxnOps       = 128
	defaultMaxRequestBytes = 3 << 19 // 1.5 MiB
	defaultTick            = 100 * time.Millisecond
	defaultElectionTicks   = 10

	// messageOverhead is what a message may be larger than the request in it.
	messageOverhead = 512 << 10
)

func (o Options) withDefaults() Options {
	if o.MaxTxnOps == 0 {
		o.MaxTxnOps = defaultMaxTxnOps
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = defaultMaxRequestBytes
	}
	if o.Tick == 0 {
		o.Tick = defaultTick
	}
	if o.ElectionTicks == 0 {
		o.ElectionTicks = defaultElectionTicks
	}
	if o.WarnRequestDuration == 0 {
		o.WarnRequestDuration = 300 * time.Millisecond
	}
	if o.WarnReadDuration == 0 {
		o.WarnReadDuration = 100 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// API answers the clients of one member. Its methods may be called from any goroutine.
type API struct {
	o     Options
	log   *zap.Logger
	node  *raftnode.Node
	store *store.Store

	services                      []service
	methods                       map[string]*methodMetrics // by full method name
	unaryVersions, streamVersions *clientVersions
	streams                       streams
	passwords                     *auth.Passwords
	logins                        *auth.Logins
	started                       time.Time
	snapshots

	stop     chan struct{}
	stopOnce sync.Once
}

// service is one gRPC service and what implements it.
type service struct {
	desc *grpc.ServiceDesc
	impl any
}

// New returns the API of a member. Node and store must outlive it; Close ends it.
func New(o Options) *API {
	o = o.withDefaults()
	a := &API{
		o: o, log: o.Logger, node: o.Node, store: o.Store,
		unaryVersions: newClientVersions("unary"), streamVersions: newClientVersions("stream"),
		passwords: auth.NewPasswords(o.BcryptCost), logins: auth.NewLogins(),
		started: time.Now(), stop: make(chan struct{}),
	}
	a.services = []service{
		{kvServiceDesc, kvServer{API: a}},
		{&pb.Watch_ServiceDesc, watchServer{API: a}},
		{&pb.Lease_ServiceDesc, leaseServer{API: a}},
		{&pb.Cluster_ServiceDesc, clusterServer{API: a}},
		{&pb.Maintenance_ServiceDesc, maintenanceServer{API: a}},
		{&pb.Auth_ServiceDesc, authServer{API: a}},
		{&cofferpb.Keys_ServiceDesc, keysServer{API: a}},
		{&cofferpb.Member_ServiceDesc, memberServer{API: a}},
		{&healthpb.Health_ServiceDesc, health.NewServer()}, // SERVING for the service ""
	}
	c := newCoordinator(newLocalConn(a))
	a.services = append(a.services,
		service{&v3lockpb.Lock_ServiceDesc, lockServer{c: c}},
		service{&v3electionpb.Election_ServiceDesc, electionServer{c: c}})
	a.methods = methodsOf(o.ExtensiveMetrics, a.services)
	elections := time.NewTicker(o.Tick * time.Duration(o.ElectionTicks))
	go func() {
		defer elections.Stop()
		a.streams.watchLeader(a.hasLeader, elections.C, a.stop)
	}()
	return a
}

// Close ends all streams, which would otherwise last as long as their clients like. Unary requests go on.
func (a *API) Close() {
	a.stopOnce.Do(func() { close(a.stop) })
	a.streams.stop()
}

func (a *API) hasLeader() bool { return a.node.Status().Leader != 0 }

// Register adds the services to a gRPC server, which must have been made with ServerOptions.
func (a *API) Register(s *grpc.Server) {
	for _, svc := range a.services {
		s.RegisterService(svc.desc, svc.impl)
	}
}

// fill completes the header of a response: its revision, if a layer below has not set it, is the store's current one.
func (a *API) fill(h *pb.ResponseHeader) {
	a.fillMember(h)
	if h.Revision == 0 {
		h.Revision = a.store.Revision()
	}
}

// fillMember completes a header all but the revision.
func (a *API) fillMember(h *pb.ResponseHeader) {
	h.ClusterId = a.o.ClusterID
	h.MemberId = a.o.MemberID
	h.RaftTerm = a.node.Status().Term
}

// header returns a header that speaks of now.
func (a *API) header() *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	a.fill(h)
	return h
}
