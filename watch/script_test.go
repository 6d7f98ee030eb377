package watch

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cofferkv/coffer/mvcc"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// store is a store whose writer publishes to a hub when it is told to.
type store struct {
	t     testing.TB
	db    *mvcc.DB
	index uint64
}

func newStore(t testing.TB) *store {
	db, err := mvcc.Open(options())
	if err != nil {
		t.Fatal(err)
	}
	return &store{t: t, db: db}
}

func options() mvcc.Options {
	return mvcc.Options{FS: vfs.NewMem(), Dir: "db", CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
}

// apply applies requests, one a line, as one batch: "put key value", "delete
// key [end]" and "compact revision". Several puts and deletes in a line,
// separated by a semicolon, are one transaction.
func (s *store) apply(requests string) (rev int64, events []mvcc.Events) {
	s.t.Helper()
	b := s.db.Begin()
	for line := range strings.Lines(requests) {
		if strings.HasPrefix(line, "compact ") {
			var rev int64
			fmt.Sscanf(line, "compact %d", &rev)
			if err := b.Compact(rev); err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			continue
		}
		txn := b.Txn()
		for op := range strings.SplitSeq(line, ";") {
			f := append(strings.Fields(op), "", "")
			switch f[0] {
			case "put":
				txn.Put([]byte(f[1]), []byte(f[2]), 0)
			case "delete":
				txn.DeleteRange([]byte(f[1]), []byte(f[2]))
			default:
				s.t.Fatalf("unknown request %q", op)
			}
		}
		rev = txn.End()
	}
	s.index++
	events, err := b.Commit(s.index, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	return revisionOf(s.db), events
}

// clone returns a store with the same content, as a leader's snapshot is.
func (s *store) clone() *store {
	var b bytes.Buffer
	if err := s.db.Export(context.Background(), &b); err != nil {
		s.t.Fatal(err)
	}
	db, err := mvcc.Import(context.Background(), options(), &b)
	if err != nil {
		s.t.Fatal(err)
	}
	return &store{s.t, db, s.index}
}

func (s *store) close() {
	if err := s.db.Close(); err != nil {
		s.t.Error(err)
	}
}

// TestScripts plays the scripts in testdata: what a watcher is told, by
// example. Whatever a stream has to say is asked for by "next".
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{}
		defer s.close()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			s.run(t, d)
			return s.out.String()
		})
	})
}

type script struct {
	out     strings.Builder
	store   *store
	hub     *Hub
	streams map[string]*Stream
	held    func() // publishes what "hold" has kept back
}

func (s *script) close() {
	if s.hub != nil {
		s.closeHub()
		s.store.close()
	}
}

func (s *script) closeHub() {
	for _, st := range s.streams {
		st.Close()
	}
	s.hub.Close()
}

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	stream := func() *Stream {
		name := "1"
		d.MaybeScanArgs(t, "s", &name)
		if s.streams[name] == nil {
			s.streams[name] = s.hub.NewStream()
		}
		return s.streams[name]
	}
	var key, end string
	d.MaybeScanArgs(t, "key", &key)
	d.MaybeScanArgs(t, "end", &end)
	var id int64
	d.MaybeScanArgs(t, "id", &id)

	switch d.Cmd {
	case "new":
		s.close()
		s.store = newStore(t)
		s.hub = New(s.store.db, Options{})
		s.streams = make(map[string]*Stream)
		l := &s.hub.limits
		d.MaybeScanArgs(t, "recent", &l.recentBytes)
		d.MaybeScanArgs(t, "queue", &l.queueBytes)
		d.MaybeScanArgs(t, "chunk", &l.chunkBytes)
		d.MaybeScanArgs(t, "revisions", &l.chunkRevisions)
	case "apply":
		rev, events := s.store.apply(d.Input)
		s.held = func() { s.hub.Publish(rev, events) }
		if !d.HasArg("hold") {
			s.held()
		}
		fmt.Fprintf(&s.out, "revision %d\n", rev)
	case "publish":
		s.held()
	case "restart":
		s.closeHub()
		s.hub = New(s.store.db, Options{})
		s.streams = make(map[string]*Stream)
	case "restore":
		leader := s.store.clone()
		rev, _ := leader.apply(d.Input)
		s.hub.Restore(leader.db)
		s.store.close()
		s.store = leader
		fmt.Fprintf(&s.out, "revision %d\n", rev)
	case "watch":
		r := &pb.WatchCreateRequest{
			Key: []byte(key), RangeEnd: unquote(end), WatchId: id,
			PrevKv: d.HasArg("prev"), ProgressNotify: d.HasArg("notify"), Fragment: d.HasArg("fragment"),
		}
		d.MaybeScanArgs(t, "rev", &r.StartRevision)
		if d.HasArg("noput") {
			r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
		}
		if d.HasArg("nodelete") {
			r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
		}
		stream().Watch(r)
	case "refuse":
		stream().Refuse(strings.TrimSpace(d.Input))
	case "cancel":
		stream().Cancel(id)
	case "progress":
		stream().RequestProgress()
	case "interval":
		stream().tick()
	case "next":
		n := 1000
		d.MaybeScanArgs(t, "n", &n)
		for range n {
			r, err := stream().poll(context.Background())
			if err != nil {
				fmt.Fprintf(&s.out, "error: %v\n", err)
				return
			}
			if r == nil {
				if d.HasArg("n") {
					fmt.Fprintln(&s.out, "nothing")
				}
				return
			}
			s.print(r)
		}
	case "fragments":
		r, err := stream().poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		d.ScanArgs(t, "max", &size)
		for m := range r.Messages(&pb.ResponseHeader{Revision: r.Revision}, size) {
			fmt.Fprintf(&s.out, "fragment=%v events=%d\n", m.Fragment, len(m.Raw))
		}
	case "state":
		st := stream()
		for _, id := range slices.Sorted(maps.Keys(st.watchers)) {
			w := st.watchers[id]
			fmt.Fprintf(&s.out, "watcher %d: %s\n", id, [...]string{"live", "lagging", "ended"}[w.state])
		}
	case "close":
		stream().Close()
	case "close-hub":
		s.hub.Close()
	default:
		d.Fatalf(t, "unknown command")
	}
}

// unquote lets a script write the range end that means "from key".
func unquote(end string) []byte {
	if end == "0x00" {
		return []byte{0}
	}
	return []byte(end)
}

func (s *script) print(r *Response) {
	fmt.Fprintf(&s.out, "watcher %d rev=%d", r.WatchID, r.Revision)
	if r.Created {
		s.out.WriteString(" created")
	}
	if r.Canceled {
		s.out.WriteString(" canceled")
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&s.out, " reason=%q", r.CancelReason)
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&s.out, " compact=%d", r.CompactRevision)
	}
	if !r.Created && !r.Canceled && len(r.Events) == 0 {
		s.out.WriteString(" progress")
	}
	s.out.WriteString("\n")
	for _, encoded := range r.Events {
		e := decode(encoded)
		fmt.Fprintf(&s.out, "  %d %s\n", e.Kv.ModRevision, describe(e))
	}
}

func describe(e *mvccpb.Event) string {
	s := fmt.Sprintf("put %s=%s", e.Kv.Key, e.Kv.Value)
	if e.Type == mvccpb.Event_DELETE {
		s = fmt.Sprintf("delete %s", e.Kv.Key)
	}
	if e.PrevKv != nil {
		s += fmt.Sprintf(" was %s of %d", e.PrevKv.Value, e.PrevKv.ModRevision)
	}
	return s
}
