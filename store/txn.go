package store

import (
	"bytes"
	"cmp"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/cofferkv/coffer/mvcc"
)

// plan is a transaction whose compares have been decided: which branch runs,
// of it and of the transactions nested in that branch. All compares of all
// levels see the state before the first write.
type plan struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    []*plan // one for each nested transaction in ops, in order
}

func decide(ctx context.Context, rd reader, r *pb.TxnRequest) (*plan, error) {
	p := &plan{succeeded: true, ops: r.GetSuccess()}
	for _, c := range r.GetCompare() {
		ok, err := compare(ctx, rd, c)
		if err != nil {
			return nil, err
		}
		if !ok {
			p.succeeded, p.ops = false, r.GetFailure()
			break
		}
	}
	for _, op := range p.ops {
		t, ok := op.GetRequest().(*pb.RequestOp_RequestTxn)
		if !ok {
			continue
		}
		n, err := decide(ctx, rd, t.RequestTxn)
		if err != nil {
			return nil, err
		}
		p.nested = append(p.nested, n)
	}
	return p, nil
}

// compare reports whether the comparison holds for every key of its range. A
// range without keys is compared as if it held one that was never written;
// only a comparison of values then always fails.
func compare(ctx context.Context, rd reader, c *pb.Compare) (bool, error) {
	if len(c.Key) == 0 {
		return false, ErrMalformedRequest
	}
	// What a key's index entry tells need not be read.
	if len(c.RangeEnd) == 0 && c.Target != pb.Compare_VALUE {
		m, _ := rd.Get(c.Key)
		return holds(c, &mvccpb.KeyValue{
			CreateRevision: m.Create, ModRevision: m.Mod.Main, Version: m.Version, Lease: m.Lease,
		}), nil
	}
	res, err := rd.Range(ctx, c.Key, c.RangeEnd, mvcc.RangeOptions{})
	if err != nil {
		return false, err
	}
	if len(res.KVs) == 0 {
		return c.Target != pb.Compare_VALUE && holds(c, &mvccpb.KeyValue{}), nil
	}
	for _, kv := range res.KVs {
		if !holds(c, kv) {
			return false, nil
		}
	}
	return true, nil
}

// holds compares one key. An unset operand is zero, an unknown target equals
// its operand, an unknown result always holds.
func holds(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}

// checkRange is the check of a range inside a transaction, made before the
// transaction begins to write: afterwards nothing may fail.
func checkRange(rd reader, r *pb.RangeRequest) error {
	if err := wellFormedRange(r); err != nil {
		return err
	}
	switch {
	case r.Revision == 0:
		return nil
	case r.Revision > rd.Revision():
		return mvcc.ErrFutureRevision
	case r.Revision < rd.CompactRevision():
		return mvcc.ErrCompacted
	}
	return nil
}

func wellFormedRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrMalformedRequest
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return ErrMalformedRequest
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return ErrMalformedRequest
	}
	return nil
}

// check is everything that the branches of a planned transaction can be
// refused for. It sees the state before the first write, as compares do.
func (t *kvTxn) check(p *plan) error {
	nested := p.nested
	for _, op := range p.ops {
		var err error
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			err = checkRange(t, o.RequestRange)
		case *pb.RequestOp_RequestPut:
			err = t.checkPut(o.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			if len(o.RequestDeleteRange.GetKey()) == 0 {
				err = ErrMalformedRequest
			}
		case *pb.RequestOp_RequestTxn:
			err = t.check(nested[0])
			nested = nested[1:]
		default:
			err = ErrMalformedRequest
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run executes the branches of a planned transaction that has passed check.
// Only the top response's header counts beyond this package, but nested ones
// have a header too, without a revision, as etcd's have.
func (t *kvTxn) run(p *plan) *pb.TxnResponse {
	resp := &pb.TxnResponse{
		Header:    &pb.ResponseHeader{},
		Succeeded: p.succeeded,
		Responses: make([]*pb.ResponseOp, len(p.ops)),
	}
	nested := p.nested
	for i, op := range p.ops {
		r := &pb.ResponseOp{}
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			rr, err := executeRange(context.Background(), t, o.RequestRange, t.revision())
			if err != nil {
				t.b.fail(err) // its revision has been checked
			}
			r.Response = &pb.ResponseOp_ResponseRange{ResponseRange: rr}
		case *pb.RequestOp_RequestPut:
			r.Response = &pb.ResponseOp_ResponsePut{ResponsePut: t.put(o.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			r.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: t.deleteRange(o.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			r.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: t.run(nested[0])}
			nested = nested[1:]
		}
		resp.Responses[i] = r
	}
	return resp
}

func (b *batch) applyTxn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	t := b.begin()
	defer t.End()
	p, err := decide(context.Background(), t, r)
	if err != nil {
		return nil, err
	}
	if err := t.check(p); err != nil {
		return nil, err
	}
	resp := t.run(p)
	resp.Header.Revision = t.revision()
	return resp, nil
}
