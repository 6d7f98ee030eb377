package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/journal"
	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/kms"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/store"
)

const (
	testCluster = 0xc1
	testTick    = 20 * time.Millisecond
)

// testKEK is one key for all data directories of the tests.
var testKEK = sync.OnceValues(func() (*kms.KEK, error) {
	dir, err := mkdirTemp()
	if err != nil {
		return nil, err
	}
	return kms.Create("file:" + filepath.Join(dir, "kek"))
})

// member is everything that one member consists of, on a file system in memory.
type member struct {
	t       testing.TB
	id      uint64
	base    vfs.FS
	dir     string // under which data is
	segment int64  // size of a journal segment
	keyring *keyring.Keyring
	fs      *seal.FS
	journal *journal.Journal
	store   *store.Store
	node    *Node
}

// openMember opens what is on base, or makes it, short of starting the node.
func openMember(t testing.TB, base vfs.FS, id uint64) *member {
	t.Helper()
	m := &member{t: t, id: id, base: base}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *member) open() error {
	kek, err := testKEK()
	if err != nil {
		return err
	}
	if err := m.base.MkdirAll(m.path(), 0o700); err != nil {
		return err
	}
	root, err := m.base.OpenDir(m.base.PathJoin("/", m.dir))
	if err != nil {
		return err
	}
	if err := errors.Join(root.Sync(), root.Close()); err != nil {
		return err
	}
	if _, err := m.base.Stat(m.path("KEYRING")); err != nil {
		m.keyring, err = keyring.Create(m.base, m.path("KEYRING"), keyring.Member{ClusterID: testCluster, MemberID: m.id}, kek)
		if err != nil {
			return err
		}
	} else if m.keyring, err = keyring.Open(m.base, m.path("KEYRING"), kek); err != nil {
		return err
	}
	m.fs = seal.New(m.base, m.keyring, seal.Options{})
	m.journal, err = journal.Open(journal.Options{FS: m.fs, Dir: m.path("journal"), SegmentSize: cmp.Or(m.segment, 1<<20)})
	if err != nil {
		return err
	}
	m.store, err = store.Open(store.Options{FS: m.fs, Dir: m.path("db"), MemTableBytes: 4 << 20, CacheBytes: 4 << 20})
	return err
}

// path returns the path of a file in the data directory.
func (m *member) path(names ...string) string {
	return m.base.PathJoin(append([]string{m.dir, "data"}, names...)...)
}

// options are those of a single member that is alone in its cluster.
func (m *member) options() Options {
	return Options{
		ID: m.id, ClusterID: testCluster,
		Journal: m.journal, Store: m.store, FS: m.fs, Keyring: m.keyring,
		DBDir: m.path("db"), SealedDirs: []string{m.path()}, BallastPath: m.path("ballast"), BallastBytes: -1,
		Bootstrap:  []*pb.Member{{ID: m.id, PeerURLs: []string{peerURL(m.id)}}},
		Name:       fmt.Sprintf("m%d", m.id),
		ClientURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", 2000+m.id)},
		Tick:       testTick,
		Logger:     testLogger(m.t),
	}
}

func peerURL(id uint64) string { return fmt.Sprintf("http://127.0.0.1:%d", 1000+id) }

// testLogger logs warnings; a whole log only when a test fails is more than
// anybody reads.
func testLogger(t testing.TB) *zap.Logger {
	return zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
}

// start starts the node; change may change its options.
func (m *member) start(change ...func(*Options)) *member {
	m.t.Helper()
	if err := m.tryStart(change...); err != nil {
		m.t.Fatal(err)
	}
	return m
}

func (m *member) tryStart(change ...func(*Options)) error {
	o := m.options()
	for _, c := range change {
		c(&o)
	}
	n, err := Start(o)
	m.node = n
	return err
}

// awaitReady waits until the node has published itself.
func (m *member) awaitReady() *member {
	m.t.Helper()
	select {
	case <-m.node.Ready():
	case <-m.node.Done():
		m.t.Fatalf("member %d ended: %v", m.id, m.node.Err())
	case <-time.After(20 * time.Second):
		m.t.Fatalf("member %d is not ready", m.id)
	}
	return m
}

// stop ends the node and closes all that is below it.
func (m *member) stop() {
	m.t.Helper()
	if m.node != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.node.Stop(ctx); err != nil {
			m.t.Fatal(err)
		}
	}
	m.close()
}

func (m *member) close() {
	if err := m.store.Close(); err != nil {
		m.t.Error(err)
	}
	if err := m.journal.Close(); err != nil {
		m.t.Error(err)
	}
	m.keyring.Close()
}

// newSingle starts a member of its own, and stops it when the test ends.
func newSingle(t testing.TB, change ...func(*Options)) *member {
	t.Helper()
	m := openMember(t, vfs.NewMem(), 1).start(change...).awaitReady()
	t.Cleanup(m.stop)
	return m
}

func put(key, value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

// put writes a key and returns the revision at which that happened.
func (m *member) put(key, value string) int64 {
	m.t.Helper()
	rev, err := m.tryPut(context.Background(), key, value)
	if err != nil {
		m.t.Fatal(err)
	}
	return rev
}

func (m *member) tryPut(ctx context.Context, key, value string) (int64, error) {
	res, err := m.node.Propose(ctx, put(key, value))
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return 0, err
	}
	return res.Response.(*pb.PutResponse).Header.Revision, nil
}

// get reads a key from the member's store as it is: its value, "" if it is not
// there, and the revision of its last change.
func (m *member) get(key string) (string, int64) {
	m.t.Helper()
	resp, err := m.store.Range(context.Background(), &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		m.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return "", 0
	}
	return string(resp.Kvs[0].Value), resp.Kvs[0].ModRevision
}

// network carries messages between the members of a test, in order, as long as
// neither end is cut off.
type network struct {
	mu      sync.Mutex
	nodes   map[uint64]*Node
	cut     map[uint64]bool
	started time.Time
	drop    func(*raftpb.Message) bool // messages that get lost, if not nil
}

func newNetwork() *network {
	return &network{nodes: map[uint64]*Node{}, cut: map[uint64]bool{}, started: time.Now().Add(-time.Minute)}
}

func (w *network) join(id uint64, n *Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[id] = n
}

func (w *network) setCut(id uint64, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[id] = cut
}

func (w *network) setDrop(drop func(*raftpb.Message) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop = drop
}

// link is one member's end of a network.
type link struct {
	w    *network
	from uint64
}

func (l link) Send(ms []*raftpb.Message) {
	for _, m := range ms {
		l.w.mu.Lock()
		to := l.w.nodes[m.GetTo()]
		lost := to == nil || l.w.cut[l.from] || l.w.cut[m.GetTo()] || (l.w.drop != nil && l.w.drop(m))
		l.w.mu.Unlock()
		if !lost {
			to.Step(proto.Clone(m).(*raftpb.Message))
		}
	}
}

func (l link) ActiveSince(id uint64) time.Time {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.nodes[id] == nil || l.w.cut[id] || l.w.cut[l.from] {
		return time.Time{}
	}
	return l.w.started
}

// cluster is several members on one network.
type cluster struct {
	t       testing.TB
	net     *network
	members []*member
}

func newCluster(t testing.TB, size int) *cluster {
	t.Helper()
	return newClusterOn(t, size, func(uint64) vfs.FS { return vfs.NewMem() })
}

// newClusterOn is newCluster on file systems of the caller's choice.
func newClusterOn(t testing.TB, size int, base func(id uint64) vfs.FS) *cluster {
	t.Helper()
	c := &cluster{t: t, net: newNetwork()}
	var boot []*pb.Member
	for id := uint64(1); id <= uint64(size); id++ {
		boot = append(boot, &pb.Member{ID: id, PeerURLs: []string{peerURL(id)}})
	}
	for id := uint64(1); id <= uint64(size); id++ {
		m := openMember(t, base(id), id)
		m.start(func(o *Options) {
			o.Bootstrap = boot
			o.Transport = link{c.net, id}
		})
		c.net.join(id, m.node)
		c.members = append(c.members, m)
		t.Cleanup(m.stop)
	}
	for _, m := range c.members {
		m.awaitReady()
	}
	return c
}

// leader waits until a member other than those given leads in the eyes of all
// that are not given.
func (c *cluster) leader(except ...uint64) *member {
	c.t.Helper()
	skip := map[uint64]bool{}
	for _, id := range except {
		skip[id] = true
	}
	var lead *member
	eventually(c.t, "a leader", func() bool {
		var id uint64
		for _, m := range c.members {
			if skip[m.id] {
				continue
			}
			l := m.node.Status().Leader
			if l == 0 || skip[l] || (id != 0 && l != id) {
				return false
			}
			id = l
		}
		lead = c.members[id-1]
		return true
	})
	return lead
}

// followers are the members that do not lead.
func (c *cluster) followers(lead *member) []*member {
	var fs []*member
	for _, m := range c.members {
		if m != lead {
			fs = append(fs, m)
		}
	}
	return fs
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
