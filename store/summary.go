package store

import (
	"io"

	"github.com/cofferkv/coffer/mvcc"
)

// Summary says what is in the content of a snapshot.
type Summary struct {
	mvcc.Summary
	ClusterVersion string // "3.7.0", or "" if it was not decided yet
}

// Summarize reads the content of a snapshot to its end.
func Summarize(r io.Reader) (s Summary, err error) {
	s.Summary, err = mvcc.Summarize(r, spaceCluster, func(key, value []byte) {
		if string(key) == nameVersion {
			s.ClusterVersion = string(value)
		}
	})
	return s, err
}
