package differential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/test/requests"
)

const clients = 16

// done is a call of one of many clients, and what came of it.
type done struct {
	client   int
	request  request
	outcome  outcome
	revision int64 // of the response, or for an error that of the client's call before
}

// concurrently lets many clients work on a at once, finds out from the
// revisions in which order their requests took effect, asks b the same in that
// order, and compares. It does so in phases, between which nothing runs.
//
// The place of a request among those of others must follow from its response.
// So nothing is asked that may fail because of what another client did:
// a client ends no lease but its own, and gives that to plain puts only.
func concurrently(ctx context.Context, a, b *side, seed uint64, phases, calls int) error {
	var revision, compacted int64 = 1, 0
	gens := make([]*requests.Generator, clients)
	for i := range gens {
		gens[i] = requests.New(seed*clients + uint64(i))
	}
	for id := range int64(clients) {
		r := request{message: &pb.LeaseGrantRequest{ID: id + 1, TTL: 100_000}}
		if x, y := ask(ctx, a, r), ask(ctx, b, r); !x.equal(y) {
			return fmt.Errorf("%v\n%s: %v\n%s: %v", r, a.name, x, b.name, y)
		}
	}
	for phase := range phases {
		early, err := newPair(a, b)
		if err != nil {
			return err
		}
		defer early.close()
		everything := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}
		if err := early.create(everything, revision); err != nil {
			return err
		}

		var mu sync.Mutex
		var all []done
		var late []*stream
		var lateRequests []*pb.WatchCreateRequest
		var failure error
		var wg sync.WaitGroup
		for i, g := range gens {
			wg.Go(func() {
				seen := revision
				mine := make([]done, 0, calls)
				for range calls {
					r := independent(g, i, compacted, seen)
					d := done{client: i, request: r, outcome: ask(ctx, a, r)}
					d.revision = revisionOf(d.outcome.resp)
					if d.outcome.err != nil {
						d.revision = seen
					} else if d.revision < seen {
						mu.Lock()
						failure = fmt.Errorf("%v has revision %d after one of %d", r, d.revision, seen)
						mu.Unlock()
					}
					seen = d.revision
					g.Observe(seen)
					mine = append(mine, d)
					if g.Rand().IntN(50) == 0 {
						wr := watchOf(g)
						wr.StartRevision = 0
						if g.Rand().IntN(2) == 0 {
							wr.StartRevision = between(g, compacted+1, seen)
						}
						w, err := newStream(a)
						if err == nil {
							_, err = w.create(wr)
						}
						mu.Lock()
						if err != nil {
							failure = err
						} else {
							late, lateRequests = append(late, w), append(lateRequests, wr)
						}
						mu.Unlock()
					}
				}
				mu.Lock()
				all = append(all, mine...)
				mu.Unlock()
			})
		}
		wg.Wait()
		if failure != nil {
			return failure
		}
		if err := early.a.sync(highest(all)); err != nil {
			return fmt.Errorf("phase %d: %w", phase, err)
		}
		end, err := replay(ctx, a, b, all, early.watches[0].a.events, revision)
		if err != nil {
			return fmt.Errorf("phase %d: %w", phase, err)
		}
		revision = end
		if err := compareWatches(b, early, late, lateRequests, revision); err != nil {
			return fmt.Errorf("phase %d: %w", phase, err)
		}

		// Not to what a transaction has made, see sequencer.transactions.
		made := make(map[int64]bool)
		for _, d := range all {
			if _, ok := d.request.message.(*pb.TxnRequest); ok {
				made[d.revision] = true
			}
		}
		previous := compacted
		for compacted = between(gens[0], previous+1, revision); made[compacted] && compacted > previous+1; {
			compacted--
		}
		after := []request{
			{message: &pb.CompactionRequest{Revision: compacted, Physical: true}},
			{message: &pb.HashKVRequest{}},
			{message: &pb.HashKVRequest{Revision: compacted}},
			{message: &pb.HashKVRequest{Revision: between(gens[0], compacted, revision)}},
			{message: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}},
			{message: &pb.LeaseLeasesRequest{}},
		}
		for id := range int64(2 * clients) {
			after = append(after, request{message: &pb.LeaseTimeToLiveRequest{ID: id + 1, Keys: true}})
		}
		for _, r := range after {
			if x, y := ask(ctx, a, r), ask(ctx, b, r); !x.equal(y) {
				return fmt.Errorf("after phase %d: %v\n%s: %v\n%s: %v", phase, r, a.name, x, b.name, y)
			}
		}
	}
	return nil
}

func between(g *requests.Generator, low, high int64) int64 {
	return low + g.Rand().Int64N(high-low+1)
}

// independent makes a request whose success does not depend on other clients.
func independent(g *requests.Generator, client int, compacted, seen int64) request {
	own := int64(clients + client + 1)
	switch g.Rand().IntN(30) {
	case 0:
		return request{message: &pb.LeaseGrantRequest{ID: own, TTL: 100_000}}
	case 1:
		return request{message: &pb.LeaseRevokeRequest{ID: own}}
	case 2:
		return request{message: &pb.PutRequest{Key: g.Key(), Value: g.Value(), Lease: own}}
	}
	for {
		r := next(g)
		switch m := r.message.(type) {
		case *pb.RangeRequest:
			tameRange(g, m, compacted, seen)
		case *pb.PutRequest:
			tamePut(m)
		case *pb.DeleteRangeRequest:
		case *pb.TxnRequest:
			tameTxn(g, m, compacted, seen)
		default:
			continue
		}
		return r
	}
}

func tameRange(g *requests.Generator, r *pb.RangeRequest, compacted, seen int64) {
	if r.Revision != 0 {
		r.Revision = between(g, max(compacted, 1), seen)
	}
}

func tamePut(r *pb.PutRequest) {
	r.IgnoreValue, r.IgnoreLease = false, false
	if r.Lease != 0 {
		r.Lease = r.Lease%clients + 1
	}
}

func tameTxn(g *requests.Generator, r *pb.TxnRequest, compacted, seen int64) {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				tameRange(g, o.RequestRange, compacted, seen)
			case *pb.RequestOp_RequestPut:
				tamePut(o.RequestPut)
			case *pb.RequestOp_RequestTxn:
				tameTxn(g, o.RequestTxn, compacted, seen)
			}
		}
	}
}

// wrote reports whether a response tells of a revision of its own. That of a
// LeaseRevoke does not tell.
func wrote(resp proto.Message) bool {
	switch r := resp.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		return slices.ContainsFunc(r.Responses, func(op *pb.ResponseOp) bool {
			return op.GetResponsePut() != nil || op.GetResponseDeleteRange().GetDeleted() > 0 ||
				op.GetResponseTxn() != nil && wrote(op.GetResponseTxn())
		})
	}
	return false
}

func highest(all []done) int64 {
	var rev int64
	for _, d := range all {
		rev = max(rev, d.revision)
	}
	return rev
}

// replay asks b what a was asked, in the order in which it took effect there:
// by revision; among those of one revision first the one that made it, which
// must be one, then the others, those of one client in their order. The events
// that a told of show which revisions the end of a lease has made.
func replay(ctx context.Context, a, b *side, all []done, events []*mvccpb.Event, revision int64) (end int64, err error) {
	makers := make(map[int64]int)
	end = highest(all)
	for i, d := range all {
		if d.outcome.err == nil && wrote(d.outcome.resp) {
			if j, ok := makers[d.revision]; ok {
				return 0, fmt.Errorf("revision %d was given twice by %s, to\n%v\nand\n%v",
					d.revision, a.name, all[j].request, d.request)
			}
			makers[d.revision] = i
		}
	}
	leases := make(map[int64]int64) // of the keys that a revision deletes
	for _, ev := range events {
		if ev.Type == mvccpb.DELETE {
			leases[ev.Kv.ModRevision] = ev.GetPrevKv().GetLease()
		}
	}
	for i, d := range all {
		r, ok := d.request.message.(*pb.LeaseRevokeRequest)
		if !ok || d.outcome.err != nil || d.revision <= revision || leases[d.revision] != r.ID {
			continue
		}
		if _, ok := makers[d.revision]; !ok {
			makers[d.revision] = i
		}
	}
	for r := revision + 1; r <= end; r++ {
		if _, ok := makers[r]; !ok {
			return 0, fmt.Errorf("revision %d of %s was given to nobody", r, a.name)
		}
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	made := func(i int) int {
		if j, ok := makers[all[i].revision]; ok && j == i {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Or(cmp.Compare(all[i].revision, all[j].revision), cmp.Compare(made(i), made(j)))
	})
	for n, i := range order {
		d := all[i]
		if got := ask(ctx, b, d.request); !got.equal(d.outcome) {
			return 0, fmt.Errorf("call %d, of client %d: %v\n%s: %v\n%s: %v",
				n, d.client, d.request, a.name, d.outcome, b.name, got)
		}
	}
	return end, nil
}

// compareWatches compares the watch that was there before the phase, and those
// that were created on one side while it ran with the same ones created on the
// other side now.
func compareWatches(b *side, early *pair, late []*stream, requests []*pb.WatchCreateRequest, revision int64) error {
	if err := early.sync(revision); err != nil {
		return err
	}
	if err := early.compare(); err != nil {
		return err
	}
	for i, w := range late {
		defer w.cancel()
		r := proto.Clone(requests[i]).(*pb.WatchCreateRequest)
		if r.StartRevision == 0 {
			r.StartRevision = w.watches[0].created.Header.Revision + 1
		}
		v, err := newStream(b)
		if err != nil {
			return err
		}
		defer v.cancel()
		again, err := v.create(r)
		if err != nil {
			return err
		}
		if r.StartRevision <= revision {
			if err := errors.Join(w.sync(revision), v.sync(revision)); err != nil {
				return err
			}
		}
		if err := compareStories(r, w, w.watches[0], v, again); err != nil {
			return err
		}
	}
	return nil
}

func TestEtcdAgreesWithItselfUnderConcurrentClients(t *testing.T) {
	a, b := startEtcd(t), startEtcd(t)
	b.name = "etcd again"
	if err := concurrently(t.Context(), a, b, 1, 2, 50); err != nil {
		t.Fatal(err)
	}
}
