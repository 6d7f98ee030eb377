package raftnode

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// raftStorage shows journal and store to raft.
type raftStorage struct {
	n       *Node
	initial *raftpb.HardState
}

var _ raft.Storage = (*raftStorage)(nil)

// checkStart compares what the journal holds with what the store has applied,
// and returns the hard state to start raft with. raft panics on states that
// make no sense; here they are errors that say what was found.
func checkStart(o *Options) (*raftpb.HardState, error) {
	if slices.Contains(o.Store.RemovedIDs(), o.ID) {
		return nil, ErrRemoved
	}
	applied, appliedTerm := o.Store.Applied()
	first, last := o.Journal.FirstIndex(), o.Journal.LastIndex()
	if last < applied {
		return nil, fmt.Errorf("the journal ends at index %d, but the store has already applied index %d: "+
			"the journal is older than the store, or part of it was lost; put both back from the same moment, or restore a snapshot", last, applied)
	}
	if first > applied+1 {
		return nil, fmt.Errorf("the journal begins at index %d, but the store has only applied up to index %d: "+
			"the store is older than the journal; put both back from the same moment, or restore a snapshot", first, applied)
	}
	if term, err := o.Journal.Term(applied); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return nil, fmt.Errorf("reading the term of index %d from the journal: %w", applied, err)
	} else if err == nil && applied > 0 && term != appliedTerm {
		return nil, fmt.Errorf("index %d has term %d in the journal, but the store applied it with term %d: "+
			"journal and store belong to different histories; put both back from the same moment, or restore a snapshot", applied, term, appliedTerm)
	}
	hs := &raftpb.HardState{}
	if saved := o.Journal.HardState(); saved != nil {
		hs.Term, hs.Vote, hs.Commit = new(saved.GetTerm()), new(saved.GetVote()), new(saved.GetCommit())
	}
	// The commit index is not synced when it alone moves, so it may be behind.
	commit := max(hs.GetCommit(), applied)
	if commit > last {
		return nil, fmt.Errorf("the journal ends at index %d, but its hard state says that index %d was committed: part of it was lost", last, commit)
	}
	if last > 0 && last >= first {
		term, err := o.Journal.Term(last)
		if err != nil {
			return nil, fmt.Errorf("reading the term of index %d from the journal: %w", last, err)
		}
		if term > hs.GetTerm() {
			return nil, fmt.Errorf("the journal's last entry has term %d, but its hard state only term %d: part of it was lost", term, hs.GetTerm())
		}
	}
	if commit > 0 {
		hs.Commit = new(commit)
	}
	return hs, nil
}

// InitialState implements raft.Storage. The configuration is that of the
// applied index.
func (s *raftStorage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	cs := s.n.o.Store.ConfState()
	if cs == nil {
		cs = &raftpb.ConfState{}
	}
	return s.initial, cs, nil
}

// Entries implements raft.Storage.
func (s *raftStorage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	es, err := s.n.o.Journal.Entries(lo, hi, maxSize)
	return es, s.check(err)
}

// Term implements raft.Storage.
func (s *raftStorage) Term(i uint64) (uint64, error) {
	t, err := s.n.o.Journal.Term(i)
	return t, s.check(err)
}

// FirstIndex implements raft.Storage.
func (s *raftStorage) FirstIndex() (uint64, error) { return s.n.o.Journal.FirstIndex(), nil }

// LastIndex implements raft.Storage.
func (s *raftStorage) LastIndex() (uint64, error) { return s.n.o.Journal.LastIndex(), nil }

// Snapshot implements raft.Storage. It describes the applied state; the state
// itself is for the transport to send.
func (s *raftStorage) Snapshot() (*raftpb.Snapshot, error) {
	return &raftpb.Snapshot{Metadata: s.n.appliedState.Load()}, nil
}

// check passes on the errors that raft knows. On any other raft would panic:
// the node fails instead, and with it ends the goroutine that takes the turn.
func (s *raftStorage) check(err error) error {
	if err == nil || err == raft.ErrCompacted || err == raft.ErrUnavailable {
		return err
	}
	s.n.die(fmt.Errorf("reading the journal for raft: %w", err))
	return err
}
