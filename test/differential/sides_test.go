package differential

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// side is one of two servers that are asked the same.
type side struct {
	name  string
	etcd  bool
	conn  *grpc.ClientConn
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
	maint pb.MaintenanceClient
	auth  pb.AuthClient
	group pb.ClusterClient

	// tokens are those of users who have logged in.
	tokens map[string]string

	// restart ends the server and starts it again on its data.
	restart func()

	// tamper, if set, changes a response before it is compared: a planted
	// difference.
	tamper func(resp proto.Message) proto.Message
	// loseEvent makes the next event of a watch disappear.
	loseEvent atomic.Bool
}

// connect makes the side talk to a server, in place of the one before.
func (s *side) connect(t *testing.T, target string) {
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	s.disconnect()
	s.conn = conn
	s.kv, s.lease = pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	s.watch, s.maint = pb.NewWatchClient(conn), pb.NewMaintenanceClient(conn)
	s.auth, s.group = pb.NewAuthClient(conn), pb.NewClusterClient(conn)
	s.tokens = make(map[string]string)
}

func (s *side) disconnect() {
	if s.conn != nil {
		s.conn.Close()
	}
}

// startEtcd starts a real etcd in this process.
func startEtcd(t *testing.T, vary ...func(*embed.Config)) *side {
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = true
	loopback := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	client := []url.URL{{Scheme: "http", Host: freeAddr(t)}} // its gateway calls the port by its number
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = loopback, loopback
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	for _, f := range vary {
		f(cfg)
	}
	s := &side{name: "etcd", etcd: true}
	var e *embed.Etcd
	start := func() {
		var err error
		if e, err = embed.StartEtcd(cfg); err != nil {
			t.Fatal(err)
		}
		select {
		case <-e.Server.ReadyNotify():
		case <-time.After(30 * time.Second):
			t.Fatal("etcd is not ready after 30 s")
		}
		s.connect(t, e.Clients[0].Addr().String())
	}
	stop := func() {
		s.disconnect()
		e.Close()
	}
	s.restart = func() { stop(); start() }
	start()
	t.Cleanup(func() { stop() })
	return s
}

// call sends a request and returns the response, with what differs between any
// two servers taken out.
func (s *side) call(ctx context.Context, r request) (proto.Message, error) {
	resp, err := s.send(s.as(ctx, r.user), r)
	if err != nil {
		return nil, err
	}
	if s.tamper != nil {
		resp = s.tamper(resp)
	}
	return neutral(resp), nil
}

// as makes a context one of a user, if that has ever logged in.
func (s *side) as(ctx context.Context, user string) context.Context {
	if token := s.tokens[user]; token != "" {
		return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
	}
	return ctx
}

func (s *side) send(ctx context.Context, r request) (proto.Message, error) {
	switch m := r.message.(type) {
	case *pb.RangeRequest:
		if r.stream {
			return s.rangeStream(ctx, m)
		}
		return s.kv.Range(ctx, m)
	case *pb.PutRequest:
		return s.kv.Put(ctx, m)
	case *pb.DeleteRangeRequest:
		return s.kv.DeleteRange(ctx, m)
	case *pb.TxnRequest:
		return s.kv.Txn(ctx, m)
	case *pb.CompactionRequest:
		return s.kv.Compact(ctx, m)
	case *pb.LeaseGrantRequest:
		return s.lease.LeaseGrant(ctx, m)
	case *pb.LeaseRevokeRequest:
		return s.lease.LeaseRevoke(ctx, m)
	case *pb.LeaseTimeToLiveRequest:
		return s.lease.LeaseTimeToLive(ctx, m)
	case *pb.LeaseLeasesRequest:
		return s.lease.LeaseLeases(ctx, m)
	case *pb.HashKVRequest:
		return s.maint.HashKV(ctx, m)
	case *pb.AlarmRequest:
		return s.maint.Alarm(ctx, m)
	}
	if resp, err, ok := s.sendAuth(ctx, r.message); ok {
		return resp, err
	}
	panic(fmt.Sprintf("no call for %T", r.message))
}

// rangeStream puts the chunks together. How keys are spread over chunks is the
// server's affair; header, more and count belong to the last.
func (s *side) rangeStream(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	stream, err := s.kv.RangeStream(ctx, r)
	if err != nil {
		return nil, err
	}
	all := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if err != nil {
			if all.Header != nil && err.Error() == "EOF" {
				return all, nil
			}
			return nil, err
		}
		if all.Header != nil {
			return nil, fmt.Errorf("%s sends a chunk after the one with the header", s.name)
		}
		c := chunk.RangeResponse
		if c.Header == nil && (c.More || c.Count != 0) {
			return nil, fmt.Errorf("%s sends more or count without a header", s.name)
		}
		all.Kvs = append(all.Kvs, c.Kvs...)
		all.Header, all.More, all.Count = c.Header, c.More, c.Count
	}
}

// long tells whether the long forms of the tests are wanted.
var long = os.Getenv("COFFER_LONG") == "1"
