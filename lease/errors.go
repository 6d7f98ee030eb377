package lease

import "errors"

// The texts of ErrNotFound and ErrExists are those that etcd's clients know.
var (
	// ErrNotFound says that no lease has the id.
	ErrNotFound = errors.New("lease not found")
	// ErrExists says that the id to be granted is taken.
	ErrExists = errors.New("lease already exists")
	// ErrTTLTooLarge says that a TTL is above MaxTTL.
	ErrTTLTooLarge = errors.New("too large lease TTL")
	// ErrNotPrimary says that this member's lease clock does not run (any
	// more): the request belongs to the leader.
	ErrNotPrimary = errors.New("not a primary lessor")
)
