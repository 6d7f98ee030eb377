package mvcc

import (
	"context"
	"io"
)

// Export writes the whole content as a stream that Import reads.
func (db *DB) Export(ctx context.Context, w io.Writer) error { panic("mvcc: not written yet") }

// Import creates a store from a stream that Export wrote. The directory must not hold a store yet; it is left unusable if
// Import fails.
func Import(ctx context.Context, o Options, r io.Reader) (*DB, error) {
	panic("mvcc: not written yet")
}
