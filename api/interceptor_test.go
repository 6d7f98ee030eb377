package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/identity"
)

func valueOf(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func seriesOf(c prometheus.Collector) int {
	ch := make(chan prometheus.Metric)
	go func() {
		c.Collect(ch)
		close(ch)
	}()
	n := 0
	for range ch {
		n++
	}
	return n
}

func TestRPCsAreCountedUnderTheNamesEtcdUses(t *testing.T) {
	m := startMember(t)
	value := func(labels ...string) float64 { return valueOf(rpcHandled.WithLabelValues(labels...)) }
	ok, refused := value("unary", "etcdserverpb.KV", "Put", "OK"), value("unary", "etcdserverpb.KV", "Put", "InvalidArgument")
	started := valueOf(rpcStarted.WithLabelValues("unary", "etcdserverpb.KV", "Put"))
	sent := valueOf(sentBytes)
	m.put(t, "k", "v")
	m.kv().Put(soon(t), &pb.PutRequest{})
	if d := value("unary", "etcdserverpb.KV", "Put", "OK") - ok; d != 1 {
		t.Errorf("%v handled with OK", d)
	}
	if d := value("unary", "etcdserverpb.KV", "Put", "InvalidArgument") - refused; d != 1 {
		t.Errorf("%v handled with InvalidArgument", d)
	}
	if d := valueOf(rpcStarted.WithLabelValues("unary", "etcdserverpb.KV", "Put")) - started; d != 2 {
		t.Errorf("%v started", d)
	}
	if valueOf(sentBytes) == sent {
		t.Error("no bytes were counted as sent")
	}
	s := m.watch(t, soon(t))
	msgs := valueOf(rpcSent.WithLabelValues("bidi_stream", "etcdserverpb.Watch", "Watch"))
	s.create(&pb.WatchCreateRequest{Key: []byte("k")})
	s.next()
	if d := valueOf(rpcSent.WithLabelValues("bidi_stream", "etcdserverpb.Watch", "Watch")) - msgs; d != 1 {
		t.Errorf("%v messages sent", d)
	}
}

func TestClientVersionsAreCountedButNotWithoutBound(t *testing.T) {
	v := newClientVersions("unary")
	counter := clientRequests.WithLabelValues("unary", "3.7")
	before := valueOf(counter)
	v.count("3.7")
	v.count("3.7")
	if n := valueOf(counter) - before; n != 2 {
		t.Errorf("counted %v", n)
	}
	series := seriesOf(clientRequests)
	for i := range 10 * maxClientVersions {
		v.count(fmt.Sprint("made-up-", i))
	}
	v.count(strings.Repeat("x", maxClientVersionLength+1))
	if n := seriesOf(clientRequests) - series; n >= maxClientVersions {
		t.Errorf("%d new time series", n)
	}
}

func TestMetadataOfARequest(t *testing.T) {
	m := startMember(t)
	ctx := metadata.AppendToOutgoingContext(soon(t), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if _, err := m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
		t.Errorf("with a leader: %v", err)
	}
	ctx = metadata.NewIncomingContext(context.Background(), metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, "\xff"))
	if _, err := m.api.admit(ctx, m.api.unaryVersions); err != rpctypes.ErrGRPCInvalidClientAPIVersion {
		t.Errorf("a version that is no text: %v", err)
	}
}

// peerContext is the context of a request whose connection's credentials said info.
func peerContext(info credentials.AuthInfo) context.Context {
	addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}
	return peer.NewContext(context.Background(), &peer.Peer{Addr: addr, AuthInfo: info})
}

func TestEveryHandlerKnowsItsCaller(t *testing.T) {
	caller := &identity.Caller{RemoteAddr: "192.0.2.1:4711", TLS: true, Verified: true, CommonName: "alice"}
	ctx := withCaller(peerContext(ConnInfo{Caller: caller}))
	if got := identity.FromContext(ctx); got != caller {
		t.Errorf("from the connection: %v", got)
	}
	ctx = withCaller(peerContext(nil))
	if got := identity.FromContext(ctx); got.RemoteAddr != "192.0.2.7:1" || got.TLS {
		t.Errorf("without TLS: %v", got)
	}
	ctx = withCaller(peerContext(credentials.TLSInfo{}))
	if got := identity.FromContext(ctx); got.RemoteAddr != "192.0.2.7:1" || !got.TLS || got.Verified {
		t.Errorf("TLS without a certificate: %v", got)
	}
	ctx = withCaller(identity.NewContext(context.Background(), caller))
	if got := identity.FromContext(ctx); got != caller {
		t.Errorf("from the gateway: %v", got)
	}
}

func TestTheGatewaysRequestsKeepTheirCaller(t *testing.T) {
	m := startMember(t)
	var got *identity.Caller
	spy := &grpc.ServiceDesc{ServiceName: "spy", Methods: []grpc.MethodDesc{{
		MethodName: "Look",
		Handler: func(_ any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			r := &pb.RangeRequest{}
			if err := dec(r); err != nil {
				return nil, err
			}
			return intercept(ctx, r, &grpc.UnaryServerInfo{FullMethod: "/spy/Look"}, func(ctx context.Context, _ any) (any, error) {
				got = identity.FromContext(ctx)
				return &pb.RangeResponse{}, nil
			})
		},
	}}}
	m.api.services = append(m.api.services, service{desc: spy})
	conn := newLocalConn(m.api)
	caller := &identity.Caller{RemoteAddr: "192.0.2.1:4711", CommonName: "alice"}
	r := httptest.NewRequest("POST", "/v3/kv/range", nil)
	r = withHTTPCaller(r.WithContext(identity.NewContext(r.Context(), caller)))
	must(t, conn.Invoke(r.Context(), "/spy/Look", &pb.RangeRequest{}, &pb.RangeResponse{}))
	if got != caller {
		t.Errorf("got %v", got)
	}
	if err := conn.Invoke(r.Context(), "/spy/None", &pb.RangeRequest{}, &pb.RangeResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that is not there: %v", err)
	}
}

func TestRequestsAreLoggedWithoutKeysAndValues(t *testing.T) {
	var buf bytes.Buffer
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	for _, level := range []zapcore.Level{zap.DebugLevel, zap.InfoLevel} {
		buf.Reset()
		log := zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(&buf)), level))
		m := startMember(t, func(o *memberOptions) {
			o.api.Logger = log
			o.api.WarnRequestDuration, o.api.WarnReadDuration = time.Nanosecond, time.Nanosecond
		})
		m.put(t, "secret-key", "secret-value")
		ctx := soon(t)
		_, err := m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("secret-key")})
		must(t, err)
		_, err = m.kv().Txn(ctx, txn(opPut("secret-key")))
		must(t, err)
		_, err = m.kv().Txn(ctx, txn(opRange(&pb.RangeRequest{Key: []byte("secret-key")})))
		must(t, err)
		_, err = m.kv().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("secret-key")})
		must(t, err)
		m.post(t, "/v3/kv/put", `{"key":"`+b64("secret-key")+`","value":"`+b64("secret-value")+`"}`)
		m.post(t, "/v3/kv/put", `{"key":"secret-key-broken`)
		log.Sync()

		out := buf.String()
		if strings.Contains(out, "secret") || strings.Contains(out, b64("secret-key")) {
			t.Errorf("level %v: the log has keys or values in it:\n%s", level, out)
		}
		var line struct {
			Level   string
			Msg     string
			Method  string `json:"response type"`
			Count   int64  `json:"request count"`
			ReqSize int    `json:"request size"`
		}
		first, _, _ := strings.Cut(out, "\n")
		must(t, json.Unmarshal([]byte(first), &line))
		want := "warn"
		if level == zap.DebugLevel {
			want = "debug"
		}
		if line.Level != want || line.Msg != "request stats" || line.Method != "/etcdserverpb.KV/Put" || line.Count != 1 || line.ReqSize != 26 {
			t.Errorf("the first line is %s", first)
		}
		if !strings.Contains(out, "apply request took too long") {
			t.Error("no line about a slow read")
		}
	}
}
