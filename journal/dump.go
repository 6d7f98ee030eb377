package journal

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/seal"
)

// Dump checks the journal in dir as Open does, calls fn for each entry of the log in order, and returns the hard
// state, nil if there is none. It changes nothing; no process may have the journal open. fn must not keep an entry's
// data. What stands between the commit index and the end of the log may not have been committed.
func Dump(fs *seal.FS, dir string, fn func(*raftpb.Entry) error) (*raftpb.HardState, error) {
	c, err := readChain(fs, dir)
	if err != nil {
		return nil, err
	}
	// Later entries stand in later frames, so one walk over the segments meets the frames in order.
	refs := c.state.table.refs
	for _, s := range c.segments {
		_, err := fs.ReadSegment(s.path, func(f seal.Frame, payload []byte) error {
			if len(refs) == 0 || refs[0].seg != s.segment || refs[0].frame != f {
				return nil
			}
			end := c.state.table.last + 1
			if len(refs) > 1 {
				end = refs[1].first
			}
			ents, err := refs[0].decode(payload, refs[0].first, end)
			if err != nil {
				return err
			}
			refs = refs[1:]
			for _, e := range ents {
				if err := fn(e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return c.state.hardState, nil
}
