package store

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/lease"
	"github.com/cofferkv/coffer/mvcc"
)

func loadCluster(db *mvcc.DB) (*cluster, error) {
	c := &cluster{confState: &raftpb.ConfState{}}
	for _, space := range []string{spaceMember, spaceRemoved, spaceAlarm, spaceCluster} {
		err := db.RangeMeta(space, func(key, value []byte) error { return c.load(space, key, value) })
		if err != nil {
			return nil, fmt.Errorf("record space %s: %w", space, err)
		}
	}
	return c, nil
}

// loadLeases fills the lessor: first the leases, then the keys attached to
// them, which name their lease themselves.
func (s *Store) loadLeases() error {
	err := s.db.RangeMeta(spaceLease, func(_, value []byte) error {
		r, err := lease.ParseRecord(value)
		if err != nil {
			return err
		}
		return s.lessor.Load(r)
	})
	if err != nil {
		return fmt.Errorf("record space %s: %w", spaceLease, err)
	}
	v := s.db.View()
	defer v.Close()
	v.Leased(func(key []byte, id int64) {
		// A lease that is gone holds no keys, see moveKey.
		_ = s.lessor.Attach(id, key)
	})
	return nil
}
