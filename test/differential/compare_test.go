package differential

import (
	"context"
	"fmt"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// outcome is what a call led to.
type outcome struct {
	resp proto.Message
	err  error
}

func (o outcome) String() string {
	if o.err != nil {
		return fmt.Sprintf("error %v", o.err)
	}
	return fmt.Sprintf("%T %v", o.resp, o.resp)
}

// equal compares outcomes: the responses, or the errors' codes and texts.
func (o outcome) equal(p outcome) bool {
	if o.err != nil || p.err != nil {
		if o.err == nil || p.err == nil {
			return false
		}
		a, b := status.Convert(o.err), status.Convert(p.err)
		return a.Code() == b.Code() && a.Message() == b.Message()
	}
	return proto.Equal(o.resp, p.resp)
}

func ask(ctx context.Context, s *side, r request) outcome {
	resp, err := s.call(ctx, request{message: proto.Clone(r.message), stream: r.stream, user: r.user})
	return outcome{resp, err}
}
