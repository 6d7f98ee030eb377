package journal

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/seal"
)

// Options says where a journal lives and how it is laid out.
type Options struct {
	FS          *seal.FS    // every file is read and written through it
	Dir         string      // directory of the segments; created if missing
	SegmentSize int64       // bytes of a full-grown segment; 0 means DefaultSegmentSize
	Logger      *zap.Logger // nil means none
}

// DefaultSegmentSize is the size of a full-grown segment in bytes.
const DefaultSegmentSize = 64 << 20

// An Anchor ties the rest of the data directory to the journal: what is older than the newest anchor is an old
// copy that was put back, and is refused at start before Pebble is opened.
type Anchor struct {
	Manifest          string    // base name of Pebble's MANIFEST
	Tail              seal.Tail // its frames and last tag when the anchor was taken
	DurableApplied    uint64    // raft index up to which the store had been flushed
	KeyringGeneration uint64
}

// A Journal is the durable raft log of one member.
type Journal struct{}

var errSkeleton = errors.New("journal: not there yet")

// Open reads the journal in o.Dir.
func Open(o Options) (*Journal, error) { return nil, errSkeleton }

// HardState returns the last hard state appended; nil if there never was one.
func (j *Journal) HardState() *raftpb.HardState { return nil }

// FirstIndex returns the index of the first entry that Entries can return.
func (j *Journal) FirstIndex() uint64 { return 0 }

// LastIndex returns the index of the last entry; FirstIndex()-1 if there is none.
func (j *Journal) LastIndex() uint64 { return 0 }

// Term returns the term of entry i for FirstIndex()-1 <= i <= LastIndex(), else raft.ErrCompacted or raft.ErrUnavailable.
func (j *Journal) Term(i uint64) (uint64, error) { return 0, errSkeleton }

// Entries returns entries lo to hi-1 as raft.Storage wants: at least one, no more than maxSize bytes beyond that.
func (j *Journal) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) { return nil, errSkeleton }

// Append writes entries and hard state (either may be nil) as one frame and returns when it is durable. Entries
// must follow each other; they replace what the log holds from the first one's index on. With sync false, and if
// only the commit index differs from the last hard state, nothing is written until the next frame is.
func (j *Journal) Append(entries []*raftpb.Entry, hs *raftpb.HardState, sync bool) error {
	return errSkeleton
}

// Anchor returns the newest anchor, if there is one.
func (j *Journal) Anchor() (Anchor, bool) { return Anchor{}, false }

// WriteAnchor makes a durable.
func (j *Journal) WriteAnchor(a Anchor) error { return errSkeleton }

// Cut makes index+1 the first index and removes the segments that are no longer needed. The newest anchor must
// name index, or more, as durable.
func (j *Journal) Cut(index uint64) error { return errSkeleton }

// Reset drops all entries after a leader's snapshot at index was installed; the log goes on at index+1.
func (j *Journal) Reset(index, term uint64) error { return errSkeleton }

// Roll starts a new segment, under the active data key.
func (j *Journal) Roll() error { return errSkeleton }

// Size returns the bytes in use: headers and frames of every segment that is still needed.
func (j *Journal) Size() int64 { return 0 }

// Close ends the use of the journal.
func (j *Journal) Close() error { return errSkeleton }
