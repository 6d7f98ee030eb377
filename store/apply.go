package store

import (
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/cofferkv/coffer/auth"
	"github.com/cofferkv/coffer/mvcc"
)

// batch is what the entries of one Apply have done so far.
type batch struct {
	s       *Store
	mv      *mvcc.Batch
	cluster *cluster // s.cluster, or a changed copy of it
	auth    *auth.State
	index   uint64 // of the entry under way
	err     error  // what makes it impossible to go on
}

// fail keeps the first failure that is not the fault of a request; nil is none.
func (b *batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// header has the revision reached so far.
func (b *batch) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: b.mv.Revision()}
}

// setMeta stores a record; m nil stores an empty one.
func (b *batch) setMeta(space string, key []byte, m proto.Message) {
	var value []byte
	if m != nil {
		var err error
		if value, err = marshal(m); err != nil {
			b.fail(fmt.Errorf("encoding a record of space %s: %w", space, err))
			return
		}
	}
	b.mv.SetMeta(space, key, value)
}

// Apply applies committed entries in their order, as one batch. Entries at or
// below the applied index are skipped and have no result. An error means that
// this member cannot go on, because its disk failed or an entry is of a kind
// that this program does not know: nothing of the batch counts, and the store
// refuses all further work.
func (s *Store) Apply(entries []Entry, conf ConfChanger) ([]EntryResult, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	results, err := s.apply(entries, conf)
	if err != nil {
		s.broken = err
		return nil, err
	}
	return results, nil
}

func (s *Store) apply(entries []Entry, conf ConfChanger) ([]EntryResult, error) {
	index, term := s.db.Applied()
	for len(entries) > 0 && entries[0].Raft.GetIndex() <= index {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil, nil
	}
	b := &batch{s: s, mv: s.db.Begin(), cluster: s.cluster.Load(), auth: s.auth.Load()}
	results := make([]EntryResult, len(entries))
	for i, e := range entries {
		if e.Raft.GetIndex() != index+1 {
			return nil, fmt.Errorf("applying entry %d: the last applied one is %d", e.Raft.GetIndex(), index)
		}
		index, term = e.Raft.GetIndex(), e.Raft.GetTerm()
		results[i].Index, b.index = index, index
		var err error
		switch e.Raft.GetType() {
		case raftpb.EntryNormal:
			err = b.applyRequests(e, &results[i])
		case raftpb.EntryConfChange:
			err = b.applyConfChange(e.Raft, conf, &results[i])
		default:
			err = fmt.Errorf("its type %s is not known", e.Raft.GetType())
		}
		if err != nil {
			return nil, fmt.Errorf("applying entry %d: %w", index, err)
		}
	}
	// Before what was written becomes visible: what follows a revocation must not be read under the rights of before.
	s.publishAuth(b.auth)
	events, err := b.mv.Commit(index, term)
	if err != nil {
		return nil, fmt.Errorf("applying entries up to %d: %w", index, err)
	}
	if s.cluster.Swap(b.cluster) != b.cluster {
		b.cluster.report()
	}
	s.hub.Publish(b.mv.Revision(), events)
	return results, nil
}

// decodeEntry decodes the requests of an entry unless its proposer still has
// them.
func decodeEntry(e Entry) (id uint64, cmds []*pb.InternalRaftRequest, err error) {
	if e.Commands == nil {
		return DecodeBatch(e.Raft.Data)
	}
	return BatchID(e.Raft.Data), e.Commands, checkHeader(e.Raft.Data)
}

func (b *batch) applyRequests(e Entry, res *EntryResult) error {
	if len(e.Raft.Data) == 0 {
		return nil
	}
	id, cmds, err := decodeEntry(e)
	if err != nil {
		return err
	}
	res.ID = id
	res.Results = make([]Result, len(cmds))
	start := time.Now() // for the metrics alone
	for i, cmd := range cmds {
		r := &res.Results[i]
		r.Response, r.Err = b.applyRequest(cmd)
		if b.err != nil {
			return fmt.Errorf("request %d of batch %d: %w", i, id, b.err)
		}
		end := time.Now()
		observeApply(cmd, end.Sub(start), r.Err)
		start = end
	}
	return nil
}

// applyRequest applies one request. It is here that alarms take effect: with
// CORRUPT nothing is taken in that reads or changes keys or makes or ends
// leases, with NOSPACE nothing that adds data. What is then left is checked
// for whether its caller may do it.
func (b *batch) applyRequest(r *pb.InternalRaftRequest) (proto.Message, error) {
	switch {
	case r.Put != nil, r.Range != nil, r.DeleteRange != nil, r.Txn != nil, r.Compaction != nil,
		r.LeaseGrant != nil, r.LeaseRevoke != nil:
		if b.cluster.hasAlarm(pb.AlarmType_CORRUPT) {
			return nil, ErrCorrupt
		}
	}
	if b.cluster.hasAlarm(pb.AlarmType_NOSPACE) && Cost(r) > 0 {
		return nil, ErrNoSpace
	}
	if err := b.authorize(r); err != nil {
		return nil, err
	}
	switch {
	case r.Put != nil:
		return response(b.applyPut(r.Put))
	case r.Txn != nil:
		return response(b.applyTxn(r.Txn))
	case r.DeleteRange != nil:
		return response(b.applyDeleteRange(r.DeleteRange))
	case r.Range != nil:
		return response(b.applyRange(r.Range))
	case r.Compaction != nil:
		return response(b.applyCompaction(r.Compaction))
	case r.LeaseGrant != nil:
		return response(b.applyLeaseGrant(r.LeaseGrant))
	case r.LeaseRevoke != nil:
		return response(b.applyLeaseRevoke(r.LeaseRevoke))
	case r.LeaseCheckpoint != nil:
		return response(b.applyLeaseCheckpoint(r.LeaseCheckpoint))
	case r.Alarm != nil:
		return response(b.applyAlarm(r.Alarm))
	case r.ClusterMemberAttrSet != nil:
		return nil, b.applyMemberAttributes(r.ClusterMemberAttrSet)
	case r.ClusterVersionSet != nil:
		return nil, b.applyClusterVersion(r.ClusterVersionSet)
	case r.DowngradeInfoSet != nil:
		b.applyDowngrade(r.DowngradeInfoSet)
		return nil, nil
	case r.DowngradeVersionTest != nil:
		return nil, nil // only there for etcd's tests, without any effect
	}
	if resp, err, ok := b.applyAuth(r); ok {
		return resp, err
	}
	// Members that know the request have applied it. One that does not must
	// not go on with another state than theirs.
	b.fail(errors.New("the request is of a kind that this program does not know; a newer version of coffer must have written it: start that one"))
	return nil, nil
}

// response makes a nil message a nil interface.
func response[M any, P interface {
	*M
	proto.Message
}](m P, err error) (proto.Message, error) {
	if err != nil || m == nil {
		return nil, err
	}
	return m, nil
}
