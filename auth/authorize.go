package auth

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Leases tells which keys are attached to leases.
type Leases interface {
	// AllKeys reports whether ok says so of every key attached to a lease. A lease that is not there has none: whoever looks
	// for it will find out.
	AllKeys(id int64, ok func(key string) bool) bool
}

// Authorize checks whether c may have a request of the log applied. What is not listed may be done by anybody that the
// member which proposed it let through: its own business, leases that are granted, and compactions and alarms, which are
// checked before they are proposed.
func (s *State) Authorize(c Caller, leases Leases, r *pb.InternalRaftRequest) error {
	if !s.enabled {
		return nil
	}
	switch {
	case r.Put != nil:
		return s.authorizePut(c, leases, r.Put)
	case r.Range != nil:
		return s.CheckRead(c, r.Range.Key, r.Range.RangeEnd)
	case r.DeleteRange != nil:
		if err := s.CheckWrite(c, r.DeleteRange.Key, r.DeleteRange.RangeEnd); err != nil {
			return err
		}
		if r.DeleteRange.PrevKv {
			return s.CheckRead(c, r.DeleteRange.Key, r.DeleteRange.RangeEnd)
		}
		return nil
	case r.Txn != nil:
		return s.AuthorizeTxn(c, leases, r.Txn)
	case r.LeaseRevoke != nil:
		return s.CheckLeaseWrite(c, leases, r.LeaseRevoke.ID)
	case r.AuthUserGet != nil:
		if err := s.CheckRoot(c); err != nil && r.AuthUserGet.Name != c.Name {
			return err
		}
		return nil
	case r.AuthRoleGet != nil:
		if err := s.CheckRoot(c); err != nil && !s.hasRole(c.Name, r.AuthRoleGet.Role) {
			return err
		}
		return nil
	case IsManagement(r):
		return s.CheckRoot(c)
	}
	return nil
}

// IsManagement reports whether a request manages users and roles, which is for root alone.
func IsManagement(r *pb.InternalRaftRequest) bool {
	return r.AuthEnable != nil || r.AuthDisable != nil ||
		r.AuthUserAdd != nil || r.AuthUserDelete != nil || r.AuthUserChangePassword != nil ||
		r.AuthUserGrantRole != nil || r.AuthUserRevokeRole != nil || r.AuthUserList != nil ||
		r.AuthRoleAdd != nil || r.AuthRoleDelete != nil || r.AuthRoleList != nil ||
		r.AuthRoleGrantPermission != nil || r.AuthRoleRevokePermission != nil
}

// authorizePut: who may not write all keys of a lease could not revoke it, and so may not attach a key to it either.
func (s *State) authorizePut(c Caller, leases Leases, r *pb.PutRequest) error {
	if err := s.CheckWrite(c, r.Key, nil); err != nil {
		return err
	}
	if r.Lease != 0 {
		if err := s.CheckLeaseWrite(c, leases, r.Lease); err != nil {
			return err
		}
	}
	if r.PrevKv {
		return s.CheckRead(c, r.Key, nil)
	}
	return nil
}

// AuthorizeTxn checks all compares and both branches of a transaction, whichever will run.
func (s *State) AuthorizeTxn(c Caller, leases Leases, r *pb.TxnRequest) error {
	if !s.enabled {
		return nil
	}
	for _, cmp := range r.GetCompare() {
		if err := s.CheckRead(c, cmp.Key, cmp.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := s.authorizeOp(c, leases, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *State) authorizeOp(c Caller, leases Leases, op *pb.RequestOp) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return s.CheckRead(c, o.RequestRange.GetKey(), o.RequestRange.GetRangeEnd())
	case *pb.RequestOp_RequestPut:
		if o.RequestPut != nil {
			return s.authorizePut(c, leases, o.RequestPut)
		}
	case *pb.RequestOp_RequestDeleteRange:
		if o.RequestDeleteRange.GetPrevKv() {
			if err := s.CheckRead(c, o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd); err != nil {
				return err
			}
		}
		return s.CheckWrite(c, o.RequestDeleteRange.GetKey(), o.RequestDeleteRange.GetRangeEnd())
	case *pb.RequestOp_RequestTxn:
		return s.AuthorizeTxn(c, leases, o.RequestTxn)
	}
	return nil
}

// CheckLeaseWrite checks whether c may write all keys of a lease, as who renews or revokes it must.
func (s *State) CheckLeaseWrite(c Caller, leases Leases, id int64) error {
	return s.checkLease(c, leases, id, writing)
}

// CheckLeaseRead checks whether c may read all keys of a lease, as who is told of them must.
func (s *State) CheckLeaseRead(c Caller, leases Leases, id int64) error {
	return s.checkLease(c, leases, id, reading)
}

// CheckLeaseKeys checks whether c may be told of keys that were attached to a lease. It is for the answer: since CheckLeaseRead
// keys may have been attached.
func (s *State) CheckLeaseKeys(c Caller, keys [][]byte) error {
	if s.CheckRoot(c) == nil {
		return nil
	}
	for _, key := range keys {
		if err := s.CheckRead(c, key, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) checkLease(c Caller, leases Leases, id int64, a access) error {
	if s.CheckRoot(c) == nil {
		return nil
	}
	u, err := s.current(c)
	may := leases.AllKeys(id, func(key string) bool { return err == nil && u.may(a, []byte(key), nil) })
	switch {
	case may:
		return nil // also if the lease has no keys, whoever c is
	case err != nil:
		return err
	}
	return ErrPermissionDenied
}
