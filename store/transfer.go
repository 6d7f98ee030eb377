package store

import (
	"context"
	"io"
)

// Export writes the whole state as of the last applied entry to w: what a
// snapshot contains. It does not hold up Apply.
func (s *Store) Export(ctx context.Context, w io.Writer) error { return s.db.Export(ctx, w) }
