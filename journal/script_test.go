package journal

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/cofferkv/coffer/keyring"
	"github.com/cofferkv/coffer/seal"
)

// TestScripts runs the scripts in testdata: calls to a journal with segments of 16 and 32 KiB, and what it and its
// files say then.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t, kr: newKeyring(t), disk: vfs.NewMem()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if err := s.run(d); err != nil {
				return fmt.Sprintf("error: %v\n", err)
			}
			return s.say()
		})
		s.stop()
	})
}

type script struct {
	t    *testing.T
	kr   *keyring.Keyring
	disk *vfs.MemFS
	j    *Journal
	out  strings.Builder
}

func (s *script) run(d *datadriven.TestData) error {
	var index, term, n, size, vote, commit uint64
	sync := d.HasArg("sync")
	d.MaybeScanArgs(s.t, "index", &index)
	d.MaybeScanArgs(s.t, "term", &term)
	d.MaybeScanArgs(s.t, "n", &n)
	d.MaybeScanArgs(s.t, "size", &size)
	d.MaybeScanArgs(s.t, "vote", &vote)
	d.MaybeScanArgs(s.t, "commit", &commit)
	switch d.Cmd {
	case "open":
		s.stop()
		var err error
		s.j, err = openOn(s.disk, s.kr)
		return err
	case "close":
		return s.j.Close()
	case "append":
		var ents []*raftpb.Entry
		for i := range n {
			ents = append(ents, entry(index+i, term, make([]byte, size)))
		}
		return s.j.Append(ents, nil, true)
	case "hard-state":
		return s.j.Append(nil, hardState(term, vote, commit), sync)
	case "anchor":
		return s.j.WriteAnchor(Anchor{Manifest: "MANIFEST-000001", DurableApplied: index, KeyringGeneration: 1})
	case "cut":
		return s.j.Cut(index)
	case "expect":
		return s.j.Expect(index, term)
	case "reset":
		return s.j.Reset(index, term)
	case "rotate":
		if _, err := s.kr.Rotate(); err != nil {
			return err
		}
		return s.j.Roll()
	case "state":
		s.state()
	case "files":
		return s.files()
	default:
		s.t.Fatalf("%s: no such command", d.Cmd)
	}
	return nil
}

func (s *script) say() string {
	if s.out.Len() == 0 {
		return "ok\n"
	}
	defer s.out.Reset()
	return s.out.String()
}

func (s *script) stop() {
	if s.j != nil {
		abandon(s.j)
	}
}

// state says what raft would see.
func (s *script) state() {
	first, last, hs := s.j.FirstIndex(), s.j.LastIndex(), s.j.HardState()
	fmt.Fprintf(&s.out, "first %d, last %d, term %d, vote %d, commit %d; terms:", first, last, hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	for i := first - 1; i <= last; i++ {
		term, err := s.j.Term(i)
		require.NoError(s.t, err)
		fmt.Fprintf(&s.out, " %d:%d", i, term)
	}
	fmt.Fprintln(&s.out)
	if index, term, ok := s.j.Expected(); ok {
		fmt.Fprintf(&s.out, "expects a snapshot at index %d, term %d\n", index, term)
	}
}

// files says what is in each file.
func (s *script) files() error {
	s.j.background.Wait()
	c, err := readChain(seal.New(s.disk, s.kr, seal.Options{}), testDir)
	if err != nil {
		return err
	}
	for _, seg := range c.segments {
		fmt.Fprintf(&s.out, "segment %d\n", seg.number)
		for i, st := range seg.steps {
			if i == 0 || st.frame != seg.steps[i-1].frame {
				fmt.Fprintf(&s.out, "  frame %d\n", st.frame.Index)
			}
			fmt.Fprintf(&s.out, "    %s\n", st.describe())
		}
		if seg.end.Ended {
			fmt.Fprintf(&s.out, "  end mark after %d frames\n", seg.end.Tail.Frames)
		}
	}
	slices.Sort(c.older)
	if len(c.older) > 0 {
		fmt.Fprintf(&s.out, "no longer needed: %d\n", c.older)
	}
	if c.unbegun {
		fmt.Fprintln(&s.out, "prepared: the next segment")
	}
	return nil
}

func (st *step) describe() string {
	switch {
	case st.begin != nil:
		return fmt.Sprintf("begin %d, predecessor has %d frames", st.begin.segment, st.begin.predecessor.Frames)
	case st.entries != nil:
		return fmt.Sprintf("entries %d to %d, terms %v", st.entries.first, st.entries.last(), st.runs)
	case st.hardState != nil:
		return fmt.Sprintf("hard state: term %d, vote %d, commit %d", st.hardState.GetTerm(), st.hardState.GetVote(), st.hardState.GetCommit())
	case st.anchor != nil:
		return fmt.Sprintf("anchor: %s, durable %d", st.anchor.Manifest, st.anchor.DurableApplied)
	case st.cut != nil:
		return fmt.Sprintf("cut: index %d, term %d, first segment %d", st.cut.index, st.cut.term, st.cut.firstSegment)
	case st.expect != nil:
		return fmt.Sprintf("expect: index %d, term %d", st.expect.index, st.expect.term)
	default:
		return fmt.Sprintf("reset: index %d, term %d, first segment %d", st.reset.index, st.reset.term, st.reset.firstSegment)
	}
}
