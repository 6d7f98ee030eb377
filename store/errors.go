package store

import "errors"

// Errors of single requests, found in Result.Err or returned by reads. The
// texts are those etcd's own server logs; api turns them into gRPC statuses.
var (
	// ErrKeyNotFound: ignore_value or ignore_lease on a key that does not exist.
	ErrKeyNotFound = errors.New("etcdserver: key not found")
	// ErrNoSpace: the NOSPACE alarm is active and the request would add data.
	ErrNoSpace = errors.New("etcdserver: no space")
	// ErrCorrupt: the CORRUPT alarm is active.
	ErrCorrupt = errors.New("etcdserver: corrupt cluster")
	// ErrMalformedRequest: a request that api would have refused (no key,
	// an unknown sort order, an operation of no kind) reached the log.
	ErrMalformedRequest = errors.New("etcdserver: malformed request")

	// ErrMemberRemoved: the id belonged to a member that was removed; ids never return.
	ErrMemberRemoved = errors.New("membership: ID removed")
	// ErrMemberExists: a member with this id is already there.
	ErrMemberExists = errors.New("membership: ID exists")
	// ErrMemberNotFound: no member has this id.
	ErrMemberNotFound = errors.New("membership: ID not found")
	// ErrPeerURLExists: another member has one of the peer URLs.
	ErrPeerURLExists = errors.New("membership: peerURL exists")
	// ErrNotLearner: only a learner can be promoted.
	ErrNotLearner = errors.New("membership: can only promote a learner member")
	// ErrTooManyLearners: the cluster has as many learners as it may have.
	ErrTooManyLearners = errors.New("membership: too many learner members in cluster")
	// ErrLastVoter: the change would leave no voting member.
	ErrLastVoter = errors.New("membership: the last voting member cannot be removed")
	// ErrMalformedConfChange: a configuration change whose member does not
	// decode or does not carry the id of the change.
	ErrMalformedConfChange = errors.New("membership: malformed configuration change")
)
