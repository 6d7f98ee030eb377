package api

import (
	"context"
	"io"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/watch"
)

type watchServer struct {
	*API
	pb.UnsafeWatchServer
}

var _ pb.WatchServer = watchServer{}

// Watch serves one stream of watchers. Requests are taken in by a goroutine of their own; this one sends, in the order in
// which the hub decides. A client that closes its side goes on receiving.
func (s watchServer) Watch(stream pb.Watch_WatchServer) error {
	// The first end of the stream, of receiving or of sending, ends the other.
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)

	ws := s.store.Hub().NewStream()
	defer ws.Close()
	go func() {
		if err := s.receiveWatches(ctx, stream, ws); err != nil {
			s.streamFailed(stream.Context(), "receive", "watch", err)
			cancel(err)
		}
	}()

	err := s.sendWatches(ctx, stream, ws)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if codeOf(err) == codes.Canceled {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// receiveWatches takes in requests until the client has no more, which is no error, or the stream fails. While too many
// answers wait for the client to read them it takes in none, so that the client will have to wait too.
func (s watchServer) receiveWatches(ctx context.Context, stream pb.Watch_WatchServer, ws *watch.Stream) error {
	for {
		if err := ws.Room(ctx); err != nil {
			return nil // the stream has ended
		}
		r, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if err := s.permitWatch(ctx, r.CreateRequest); err != nil {
				ws.Refuse(err.Error())
				continue
			}
			ws.Watch(r.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			ws.Cancel(r.CancelRequest.WatchId)
		case *pb.WatchRequest_ProgressRequest:
			ws.RequestProgress()
		default:
			// Not worth the whole stream with all its watchers.
			s.log.Info("ignored a watch request of unknown type")
		}
	}
}

// permitWatch checks whether the range of a watch may be read; one that is refused for what it asks is left to the hub. An
// error has the text that etcd gives the client, which is that of a status.
func (s watchServer) permitWatch(ctx context.Context, r *pb.WatchCreateRequest) error {
	users := s.store.Auth()
	if !users.Enabled() || r.GetStartRevision() < 0 {
		return nil
	}
	key := r.GetKey()
	if len(key) == 0 {
		key = []byte{0} // a watch without a key begins at the first
	}
	c, err := s.user(ctx, users)
	if err == nil {
		err = users.CheckRead(c, key, r.GetRangeEnd())
	}
	switch err {
	case nil, auth.ErrInvalidToken, auth.ErrOldRevision, auth.ErrUserEmpty:
		return toStatus(err)
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// sendWatches sends what the stream has to say until ctx ends or sending fails.
func (s watchServer) sendWatches(ctx context.Context, stream pb.Watch_WatchServer, ws *watch.Stream) error {
	for {
		r, err := ws.Next(ctx)
		if err != nil {
			return toStatus(err)
		}
		start := time.Now()
		header := &pb.ResponseHeader{Revision: r.Revision}
		s.fillMember(header)
		for m := range r.Messages(header, s.maxMessageBytes()) {
			if err := stream.SendMsg(watchAnswer{m}); err != nil {
				s.streamFailed(stream.Context(), "send", "watch", err)
				return err
			}
		}
		watchSendSeconds.Observe(time.Since(start).Seconds())
	}
}

// watchAnswer is a WatchResponse with ready-made events, which it shares with the answers to other watchers.
type watchAnswer struct{ watch.Message }

var _ encoded = watchAnswer{}

func (a watchAnswer) wireSize() int { return a.Size() }

func (a watchAnswer) write(w *wireWriter) error {
	err := w.message(a.WatchResponse)
	for _, e := range a.Raw {
		for _, part := range e {
			w.share(part)
		}
	}
	return err
}
