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
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/api/v3electionpb"
	"github.com/cofferkv/coffer/api/v3lockpb"
)

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
		v3lockpb.RegisterLockHandlerClient(ctx, mux, v3lockpb.NewLockClient(conn)),
		v3electionpb.RegisterElectionHandlerClient(ctx, mux, v3electionpb.NewElectionClient(conn)),
	} {
		if err != nil {
			panic(fmt.Sprintf("api: registering a gateway handler: %v", err)) // no generated handler returns one
		}
	}
	return a.websockets(a.limitBodies(mux))
}

// maxJSONBytes bounds what is read of one message before it is known to be too large; in JSON it is longer than on the
// wire, but not by that much.
func (a *API) maxJSONBytes() int64 { return 4 * int64(a.maxMessageBytes()) }

// limitBodies bounds what a unary request may send. Streams go on for as long as they like, message by message, up to one
// that cannot be read.
func (a *API) limitBodies(next http.Handler) http.Handler {
	limit := a.maxJSONBytes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v3/watch" && r.URL.Path != "/v3/lease/keepalive" {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		} else {
			fault := make(streamFault, 1)
			r = r.WithContext(context.WithValue(r.Context(), streamFaultKey{}, fault))
			r.Body = streamBody{r.Body, fault}
		}
		next.ServeHTTP(w, r)
	})
}

// streamFault is why no further message of a streaming request can be taken. The gateway's generated code keeps that to
// itself and only stops sending; so whoever finds out leaves the reason here, for the other end of the stream (localConn).
type streamFault chan error

type streamFaultKey struct{}

// report is called before the end of what is sent.
func (f streamFault) report(err error) {
	select {
	case f <- err:
	default: // the first one counts, if anybody asks
	}
}

// streamBody is the body of a streaming request.
type streamBody struct {
	io.ReadCloser
	fault streamFault
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
	stream, _ := r.(streamBody)
	return runtime.DecoderFunc(func(v any) (err error) {
		body.left = m.limit
		defer func() {
			if err != nil && err != io.EOF {
				stream.fault.report(status.Error(codes.InvalidArgument, err.Error()))
			}
		}()
		err = decoder.Decode(v)
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
	if f.left < 0 {
		f.err = errMessageTooLong
		return 0, f.err
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left+1)]) // one more shows that there is more
	f.left -= int64(n)
	if err != nil {
		f.err = err
	}
	return n, err
}
