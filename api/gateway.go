package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/tmc/grpc-websocket-proxy/wsproxy"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxGatewayMessage bounds one JSON message of a websocket stream, in bytes.
const maxGatewayMessage = 0x7fffffff

// gateway serves the v3 API as JSON over HTTP, and its streams over websockets too. It has etcd's dialect: field names as
// in the .proto files, defaults left out, unknown fields ignored, 64-bit integers as strings, bytes in base64.
func (a *API) gateway() http.Handler {
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}))
	conn := newLocalConn(a)
	ctx := context.Background() // the generated code ignores it
	for _, err := range []error{
		gw.RegisterKVHandlerClient(ctx, mux, pb.NewKVClient(conn)),
		gw.RegisterWatchHandlerClient(ctx, mux, pb.NewWatchClient(conn)),
		gw.RegisterLeaseHandlerClient(ctx, mux, pb.NewLeaseClient(conn)),
		gw.RegisterClusterHandlerClient(ctx, mux, pb.NewClusterClient(conn)),
		gw.RegisterMaintenanceHandlerClient(ctx, mux, pb.NewMaintenanceClient(conn)),
		gw.RegisterAuthHandlerClient(ctx, mux, pb.NewAuthClient(conn)),
	} {
		if err != nil {
			panic(fmt.Sprintf("api: registering a gateway handler: %v", err)) // no generated handler returns one
		}
	}
	return wsproxy.WebsocketProxy(mux,
		// A websocket begins as a GET; the streams behind it are POSTs.
		wsproxy.WithRequestMutator(func(_, out *http.Request) *http.Request {
			out.Method = http.MethodPost
			return out
		}),
		wsproxy.WithMaxRespBodyBufferSize(maxGatewayMessage),
		wsproxy.WithLogger(websocketLog{a.log}),
	)
}

// websocketLog takes the websocket proxy's warnings. Its debug lines are messages in full, keys and values included, and
// are dropped.
type websocketLog struct{ log *zap.Logger }

func (l websocketLog) Warnln(args ...any) {
	l.log.Warn("websocket", zap.String("message", fmt.Sprintln(args...)))
}
func (l websocketLog) Debugln(...any) {}
