package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/tmc/grpc-websocket-proxy/wsproxy"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxGatewayMessage bounds one JSON message of a websocket stream, in bytes.
const maxGatewayMessage = 0x7fffffff

// gateway serves the v3 API as JSON over HTTP, and its streams over websockets too. It has etcd's dialect: field names as
// in the .proto files, defaults left out, unknown fields ignored, 64-bit integers as strings, bytes in base64.
func (a *API) gateway() http.Handler {
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: discreetJSON{&runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}, a.maxJSONBytes()},
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
	return wsproxy.WebsocketProxy(a.limitBodies(mux),
		// A websocket begins as a GET; the streams behind it are POSTs.
		wsproxy.WithRequestMutator(func(_, out *http.Request) *http.Request {
			out.Method = http.MethodPost
			return out
		}),
		wsproxy.WithMaxRespBodyBufferSize(maxGatewayMessage),
		wsproxy.WithLogger(websocketLog{a.log}),
	)
}

// maxJSONBytes bounds what is read of one message before it is known to be too large; in JSON it is longer than on the
// wire, but not by that much.
func (a *API) maxJSONBytes() int64 { return 4 * int64(a.maxMessageBytes()) }

// limitBodies bounds what a unary request may send. Streams go on for as long as they like, message by message.
func (a *API) limitBodies(next http.Handler) http.Handler {
	limit := a.maxJSONBytes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v3/watch" && r.URL.Path != "/v3/lease/keepalive" {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		}
		next.ServeHTTP(w, r)
	})
}

// discreetJSON says of a message that is not JSON, or not of the expected form, where but not what it is: the gateway
// logs the errors of its decoder, which otherwise quote the message. It reads no message longer than limit, give or take
// what the decoder reads ahead.
type discreetJSON struct {
	runtime.Marshaler
	limit int64
}

func (m discreetJSON) NewDecoder(r io.Reader) runtime.Decoder {
	body := &failingReader{r: r}
	decoder := m.Marshaler.NewDecoder(body)
	return runtime.DecoderFunc(func(v any) error {
		body.left = m.limit
		err := decoder.Decode(v)
		switch {
		case err == nil || err == io.EOF:
			return err
		case body.err == http.ErrBodyReadAfterClose:
			return io.EOF // HTTP/1.1 takes no more of a request once the answer has begun
		case body.err != nil && body.err != io.EOF:
			return body.err
		default:
			return fmt.Errorf("the request is not a %s in JSON%s", v.(proto.Message).ProtoReflect().Descriptor().FullName(), placeOf(err))
		}
	})
}

var errMessageTooLong error = &http.MaxBytesError{} // what net/http says of a body

// placeOf returns where the decoder met an error, if it says so.
func placeOf(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf(" (byte %d)", syntax.Offset)
	}
	if place := jsonPlace.FindString(err.Error()); place != "" {
		return " " + place
	}
	return ""
}

var jsonPlace = regexp.MustCompile(`\(line \d+:\d+\)`)

// failingReader remembers the error that ended it, if only that there is nothing left to be read.
type failingReader struct {
	r    io.Reader
	left int64
	err  error
}

func (f *failingReader) Read(p []byte) (int, error) {
	if f.left <= 0 {
		f.err = errMessageTooLong
		return 0, f.err
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if err != nil {
		f.err = err
	}
	return n, err
}

// websocketLog takes the websocket proxy's warnings. Its debug lines are messages in full, keys and values included, and
// are dropped.
type websocketLog struct{ log *zap.Logger }

func (l websocketLog) Warnln(args ...any) {
	l.log.Warn("websocket", zap.String("message", fmt.Sprintln(args...)))
}
func (l websocketLog) Debugln(...any) {}
