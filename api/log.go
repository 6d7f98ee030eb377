package api

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cofferkv/coffer/identity"
)

// logRequest writes etcd's line about a unary request: every one at debug level, slow ones as warnings. Unlike etcd's it
// leaves out the request's content, of which only sizes and counts are said.
func (a *API) logRequest(ctx context.Context, method string, req, resp any, start time.Time, took time.Duration) {
	level := zap.WarnLevel
	if a.log.Core().Enabled(zap.DebugLevel) {
		level = zap.DebugLevel
	} else if took <= a.o.WarnRequestDuration {
		return
	}
	remote := "No remote client info."
	if c := identity.FromContext(withCaller(ctx)); c.RemoteAddr != "" {
		remote = c.RemoteAddr
	}
	reqCount, reqSize, respCount, respSize := requestStats(req, resp)
	a.log.Log(level, "request stats",
		zap.Time("start time", start),
		zap.Duration("time spent", took),
		zap.String("remote", remote),
		zap.String("response type", method),
		zap.Int64("request count", reqCount),
		zap.Int("request size", reqSize),
		zap.Int64("response count", respCount),
		zap.Int("response size", respSize),
	)
}

// requestStats measures requests on keys and values; for others, and where there is no response, it returns -1.
func requestStats(req, resp any) (reqCount int64, reqSize int, respCount int64, respSize int) {
	switch resp := resp.(type) {
	case rangeAnswer:
		return 0, messageSize(req), resp.Count, messageSize(resp)
	case *pb.PutResponse:
		if resp != nil {
			return 1, messageSize(req), 0, messageSize(resp)
		}
	case *pb.DeleteRangeResponse:
		if resp != nil {
			return 0, messageSize(req), resp.Deleted, messageSize(resp)
		}
	case *pb.TxnResponse:
		if resp != nil {
			// What counts is the branch that ran.
			ops := req.(*pb.TxnRequest).Failure
			if resp.Succeeded {
				ops = req.(*pb.TxnRequest).Success
			}
			size := 0
			for _, op := range ops {
				size += messageSize(op)
			}
			return int64(len(ops)), size, 0, messageSize(resp)
		}
	}
	return -1, -1, -1, -1
}

func messageSize(m any) int {
	if e, ok := m.(encoded); ok {
		return e.wireSize()
	}
	return proto.Size(m.(proto.Message))
}

// warnSlowRead logs a read that took too long, with the size of its answer but nothing from it.
func (a *API) warnSlowRead(prefix string, start time.Time, count int64, resp any) {
	took := time.Since(start)
	if took <= a.o.WarnReadDuration {
		return
	}
	a.log.Warn("apply request took too long",
		zap.Duration("took", took),
		zap.Duration("expected-duration", a.o.WarnReadDuration),
		zap.String("prefix", prefix),
		zap.Int64("response-count", count),
		zap.Int("response-size", messageSize(resp)),
	)
}
