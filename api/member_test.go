package api

import (
	"context"
	"net"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/raftnode"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
	"github.com/cofferkv/coffer/watch"
)

const (
	testToken   = "api-test"
	testPeerURL = "http://127.0.0.1:2380"
)

// member is a whole member in this process, on sealed files in memory, behind real listeners on the loopback interface.
type member struct {
	disk      vfs.FS // beneath the sealed files
	api       *API
	node      *raftnode.Node
	store     *store.Store
	journal   *journal.Journal
	kek       *kms.KEK
	clusterID uint64
	id        uint64
	grpcAddr  string
	httpURL   string

	conn   *grpc.ClientConn
	client *clientv3.Client
}

// memberOptions are what tests vary.
type memberOptions struct {
	api   Options
	raft  raftnode.Options
	watch watch.Options
	// cutOff gives the member a peer that cannot be reached, without which there is no quorum.
	cutOff bool
	// learner makes the member a learner of that peer.
	learner bool
}

// startMember starts a member that is alone in its cluster and stops it when the test ends.
func startMember(t testing.TB, vary ...func(*memberOptions)) *member {
	t.Helper()
	id := store.MemberID([]string{testPeerURL}, testToken)
	m := &member{id: id, clusterID: store.ClusterID([]uint64{id})}
	fs := vfs.NewMem()
	m.disk = fs
	must(t, fs.MkdirAll("data/db", 0o700))

	var err error
	m.kek, err = kms.Create("file:" + filepath.Join(t.TempDir(), "kek"))
	must(t, err)
	t.Cleanup(m.kek.Close)
	kr, err := keyring.Create(fs, "data/KEYRING", keyring.Member{ClusterID: m.clusterID, MemberID: id}, m.kek)
	must(t, err)
	t.Cleanup(kr.Close)
	sealed := seal.New(fs, kr, seal.Options{})
	j, err := journal.Open(journal.Options{FS: sealed, Dir: "data/journal", SegmentSize: 4 << 20})
	must(t, err)
	t.Cleanup(func() { j.Close() })
	m.journal = j

	o := memberOptions{
		raft: raftnode.Options{
			Tick: 10 * time.Millisecond, Name: "test", ClientURLs: []string{"http://127.0.0.1:2379"},
			Bootstrap:    []*pb.Member{{ID: id, Name: "test", PeerURLs: []string{testPeerURL}}},
			BallastBytes: -1, FS: sealed, Keyring: kr, DBDir: "data/db", SealedDirs: []string{"data/db", "data/journal"},
		},
	}
	o.api.Tick = o.raft.Tick
	for _, f := range vary {
		f(&o)
	}
	if o.cutOff {
		const url = "http://127.0.0.1:1"
		peer := &pb.Member{ID: store.MemberID([]string{url}, testToken), PeerURLs: []string{url}}
		o.raft.Bootstrap = append(o.raft.Bootstrap, peer)
		o.raft.Bootstrap[0].IsLearner = o.learner
	}
	m.store, err = store.Open(store.Options{FS: sealed, Dir: "data/db", Watch: o.watch, MemTableBytes: 1 << 20, CacheBytes: 1 << 20})
	must(t, err)
	t.Cleanup(func() { m.store.Close() })
	o.raft.ID, o.raft.ClusterID, o.raft.Journal, o.raft.Store = id, m.clusterID, j, m.store
	m.node, err = raftnode.Start(o.raft)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m.node.Stop(ctx)
	})
	ready := m.node.Ready()
	if o.cutOff {
		applied := make(chan struct{})
		close(applied)
		ready = applied
		must(t, m.node.WaitApplied(soon(t)))
	}
	select {
	case <-ready:
	case <-m.node.Done():
		t.Fatalf("the member stopped: %v", m.node.Err())
	case <-time.After(10 * time.Second):
		t.Fatal("the member is not ready after 10 s")
	}

	o.api.Keyring, o.api.FS, o.api.SealedDirs = kr, sealed, o.raft.SealedDirs
	o.api.Node, o.api.Store, o.api.ClusterID, o.api.MemberID = m.node, m.store, m.clusterID, id
	m.api = New(o.api)
	t.Cleanup(m.api.Close)
	m.listen(t)
	return m
}

// listen serves the member's API and connects to it.
func (m *member) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m.grpcAddr = l.Addr().String()
	srv := grpc.NewServer(m.api.ServerOptions()...)
	m.api.Register(srv)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)

	web := httptest.NewServer(m.api.HTTPHandler())
	m.httpURL = web.URL
	t.Cleanup(web.Close)

	m.conn, err = grpc.NewClient(m.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { m.conn.Close() })
	m.client, err = clientv3.New(clientv3.Config{Endpoints: []string{m.grpcAddr}, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { m.client.Close() })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// soon is a context for what should take no time.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (m *member) kv() pb.KVClient                   { return pb.NewKVClient(m.conn) }
func (m *member) leases() pb.LeaseClient            { return pb.NewLeaseClient(m.conn) }
func (m *member) cluster() pb.ClusterClient         { return pb.NewClusterClient(m.conn) }
func (m *member) maintenance() pb.MaintenanceClient { return pb.NewMaintenanceClient(m.conn) }

func (m *member) put(t testing.TB, key, value string) *pb.PutResponse {
	t.Helper()
	resp, err := m.kv().Put(soon(t), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	must(t, err)
	return resp
}

// awaitClusterVersion waits until the new cluster has a version, which its leader sets after the member is ready.
func (m *member) awaitClusterVersion(t *testing.T) {
	t.Helper()
	ctx := soon(t)
	for tick := time.NewTicker(time.Millisecond); m.store.ClusterVersion() == ""; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the cluster has no version")
		}
	}
}
