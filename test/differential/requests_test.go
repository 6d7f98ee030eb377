package differential

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

// request is one call.
type request struct {
	message proto.Message
	stream  bool   // a range by RangeStream
	user    string // who asks; nobody, if that is no user who has logged in
}

func (r request) String() string {
	kind := fmt.Sprintf("%T", r.message)
	if r.stream {
		kind += " (stream)"
	}
	if r.user != "" {
		kind = r.user + " asks " + kind
	}
	return kind + " " + fmt.Sprint(r.message)
}

// callOf makes a call of what the state machine takes.
func callOf(r *pb.InternalRaftRequest) request {
	switch {
	case r.Put != nil:
		return request{message: r.Put}
	case r.DeleteRange != nil:
		return request{message: r.DeleteRange}
	case r.Range != nil:
		return request{message: r.Range}
	case r.Txn != nil:
		if deletes(r.Txn) {
			keepValues(r.Txn)
		}
		return request{message: r.Txn}
	case r.Compaction != nil:
		// Only when old versions are gone is the hash of a revision the same
		// whenever it is asked for.
		r.Compaction.Physical = true
		// A compaction to revision 0 is possible once, and then HashKV answers
		// what it remembers of it when it is asked for the current revision.
		r.Compaction.Revision = max(r.Compaction.Revision, 1)
		return request{message: r.Compaction}
	case r.LeaseGrant != nil:
		return request{message: r.LeaseGrant}
	default:
		return request{message: r.LeaseRevoke}
	}
}

// deletes reports whether a transaction deletes keys. When the put of a key with
// ignore_value or ignore_lease then comes behind its deletion in the same
// transaction, etcd panics, so that is not asked for.
func deletes(r *pb.TxnRequest) bool {
	return slices.ContainsFunc(slices.Concat(r.Success, r.Failure), func(op *pb.RequestOp) bool {
		return op.GetRequestDeleteRange() != nil || op.GetRequestTxn() != nil && deletes(op.GetRequestTxn())
	})
}

func keepValues(r *pb.TxnRequest) {
	for _, op := range slices.Concat(r.Success, r.Failure) {
		if p := op.GetRequestPut(); p != nil {
			p.IgnoreValue, p.IgnoreLease = false, false
		}
		if t := op.GetRequestTxn(); t != nil {
			keepValues(t)
		}
	}
}

// next returns the next call: mostly what requests.Generator makes, and
// sometimes what is answered without the log.
func next(g *requests.Generator) request {
	rng := g.Rand()
	switch n := rng.IntN(100); {
	case n < 4:
		return request{message: &pb.HashKVRequest{Revision: max(g.Revision(), 0)}}
	case n < 6:
		return request{message: &pb.HashKVRequest{}}
	case n < 8:
		return request{message: &pb.LeaseTimeToLiveRequest{ID: rng.Int64N(7), Keys: true}}
	case n < 9:
		return request{message: &pb.LeaseLeasesRequest{}}
	case n < 14:
		r := g.Range()
		if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget < 5 {
			// With a target but no order, etcd sorts each chunk by itself and
			// goes on behind its last key, so keys come twice or not at all.
			r.SortTarget = pb.RangeRequest_KEY
		}
		return request{message: r, stream: true}
	case n < 20:
		return request{message: g.ReadTxn()}
	case n < 21 && rng.IntN(3) == 0:
		return request{message: alarm(rng.IntN(3), pb.AlarmType(rng.IntN(3)))}
	}
	return callOf(g.Next())
}

// alarm makes a request about an alarm of a member that does not exist, so
// that both sides can have it.
func alarm(action int, t pb.AlarmType) *pb.AlarmRequest {
	return &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(action), MemberID: 0xa1a, Alarm: t}
}

// neutral takes out of a response what differs between any two servers.
func neutral(resp proto.Message) proto.Message {
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		h.GetHeader().ClusterId, h.GetHeader().MemberId, h.GetHeader().RaftTerm = 0, 0, 0
	}
	switch r := resp.(type) {
	case *pb.LeaseTimeToLiveResponse:
		if r.TTL > 0 {
			r.TTL = 1 // time passes
		}
		slices.SortFunc(r.Keys, slices.Compare[[]byte])
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
	case *pb.AlarmResponse:
		slices.SortFunc(r.Alarms, func(a, b *pb.AlarmMember) int { return int(a.Alarm - b.Alarm) })
	}
	return resp
}

// revisionOf returns the revision in the header of a response, or 0.
func revisionOf(resp proto.Message) int64 {
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return h.GetHeader().GetRevision()
	}
	return 0
}
