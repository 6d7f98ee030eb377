package mvcc

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// TestScripts runs the files in testdata. A script drives one store:
//
//	batch                      a batch; each line of its input is one of
//	  txn | end | abort          a transaction
//	  put KEY VALUE [LEASE]
//	  delete KEY [END]
//	  range KEY [END] [rev=N] [limit=N] [count] [keys]   as the transaction, or a view, sees it
//	  meta KEY VALUE             a record outside the history; without VALUE it is deleted
//	  compact REV
//	  advance REV
//	range KEY [END] [rev=N] [limit=N] [count] [keys] [view=NAME]
//	events FROM TO [prefix=P] [bytes=N] [view=NAME]
//	hash [REV]                 HashKV
//	view NAME, close NAME      hold a view of the present state
//	status                     revisions, applied index, records
//	removed                    wait until compactions have removed what they made superfluous
//	stored                     all engine keys and values, as FORMAT.md has them
//	flush, restart, crash      crash: go on with what was durable
//	export                     go on with a store imported from an export
//
// Keys and values are written as they are, or quoted as in Go.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t, fs: vfs.NewCrashableMem(), views: map[string]*View{}}
		s.open()
		defer func() { require.NoError(t, s.db.Close()) }()
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	t     *testing.T
	fs    *vfs.MemFS
	db    *DB
	views map[string]*View
}

func (s *script) open() {
	db, err := Open(Options{FS: s.fs, Dir: "db"})
	require.NoError(s.t, err)
	s.db = db
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	var out strings.Builder
	args := make([]string, 0, len(d.CmdArgs))
	for _, a := range d.CmdArgs {
		args = append(args, a.String())
	}
	switch d.Cmd {
	case "batch":
		s.batch(&out, d.Input)
	case "range":
		v := s.view(&args)
		s.rangeKeys(&out, v.Range, args)
		v.Close()
	case "events":
		v := s.view(&args)
		s.events(&out, v, args)
		v.Close()
	case "hash":
		var rev int64
		if len(args) > 0 {
			rev = s.number(args[0])
		}
		h, err := s.db.HashKV(context.Background(), rev)
		if err != nil {
			return err.Error() + "\n"
		}
		fmt.Fprintf(&out, "%08x compact=%d revision=%d current=%d\n", h.Hash, h.CompactRevision, h.Revision, h.Current)
	case "view":
		s.views[args[0]] = s.db.View()
	case "close":
		s.views[args[0]].Close()
		delete(s.views, args[0])
	case "status":
		v := s.db.View()
		defer v.Close()
		index, term := s.db.Applied()
		durable, err := s.db.DurableApplied()
		require.NoError(t, err)
		fmt.Fprintf(&out, "revision=%d compact=%d applied=%d/%d durable=%d keys=%d\n",
			v.Revision(), v.CompactRevision(), index, term, durable, v.tree.len())
		require.NoError(t, s.db.RangeMeta("test", func(k, v []byte) error {
			fmt.Fprintf(&out, "meta %s %s\n", k, v)
			return nil
		}))
	case "removed":
		require.NoError(t, s.db.WaitCompacted(context.Background(), s.db.view.Load().compact))
	case "stored":
		s.stored(&out)
	case "flush":
		require.NoError(t, s.db.Flush())
	case "restart":
		require.NoError(t, s.db.Close())
		s.open()
	case "crash":
		fs := s.fs.CrashClone(vfs.CrashCloneCfg{})
		require.NoError(t, s.db.Close())
		s.fs = fs
		s.open()
	case "export":
		var stream bytes.Buffer
		require.NoError(t, s.db.Export(context.Background(), &stream))
		require.NoError(t, s.db.Close())
		s.fs = vfs.NewCrashableMem()
		db, err := Import(context.Background(), Options{FS: s.fs, Dir: "db"}, &stream)
		require.NoError(t, err)
		s.db = db
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	if out.Len() == 0 {
		return "ok\n"
	}
	return out.String()
}

// view returns the view that the arguments name, or the present state. The caller closes it.
func (s *script) view(args *[]string) *View {
	for i, a := range *args {
		if name, ok := strings.CutPrefix(a, "view="); ok {
			*args = append((*args)[:i:i], (*args)[i+1:]...)
			v := s.views[name]
			v.refs.Add(1)
			return v
		}
	}
	return s.db.View()
}

func (s *script) number(a string) int64 {
	n, err := strconv.ParseInt(a, 10, 64)
	require.NoError(s.t, err)
	return n
}

func (s *script) text(a string) []byte {
	if strings.HasPrefix(a, `"`) {
		u, err := strconv.Unquote(a)
		require.NoError(s.t, err)
		return []byte(u)
	}
	return []byte(a)
}

func (s *script) batch(out *strings.Builder, input string) {
	b := s.db.Begin()
	var txn *Txn
	for _, line := range strings.Split(strings.TrimSpace(input), "\n") {
		f := strings.Fields(line)
		switch args := f[1:]; f[0] {
		case "txn":
			txn = b.Txn()
		case "end":
			fmt.Fprintf(out, "revision %d\n", txn.End())
			txn = nil
		case "abort":
			txn.Abort()
			txn = nil
		case "put":
			lease := int64(0)
			if len(args) > 2 {
				lease = s.number(args[2])
			}
			old, existed := txn.Put(s.text(args[0]), s.text(args[1]), lease)
			if existed {
				fmt.Fprintf(out, "replaced %s\n", metaLine(old))
			}
		case "delete":
			var end []byte
			if len(args) > 1 {
				end = s.text(args[1])
			}
			for _, d := range txn.DeleteRange(s.text(args[0]), end) {
				fmt.Fprintf(out, "deleted %s %s\n", printable(d.Key), metaLine(d.Meta))
			}
		case "range":
			s.rangeKeys(out, txn.Range, args)
		case "meta":
			if len(args) > 1 {
				b.SetMeta("test", s.text(args[0]), s.text(args[1]))
			} else {
				b.DeleteMeta("test", s.text(args[0]))
			}
		case "compact":
			if err := b.Compact(s.number(args[0])); err != nil {
				fmt.Fprintln(out, err)
			}
		case "advance":
			b.Advance(s.number(args[0]))
		default:
			s.t.Fatalf("unknown line %q", line)
		}
	}
	index, _ := s.db.Applied()
	events, err := b.Commit(index+1, 1)
	require.NoError(s.t, err)
	for _, r := range events {
		for i := range r.Events {
			fmt.Fprintf(out, "event %d %s\n", r.Revision, s.eventLine(&r.Events[i]))
		}
	}
}

func (s *script) rangeKeys(out *strings.Builder, f rangeFunc, args []string) {
	var o RangeOptions
	var keys [][]byte
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		switch {
		case a == "count":
			o.CountOnly = true
		case a == "keys":
			o.KeysOnly = true
		case ok && name == "rev":
			o.Rev = s.number(value)
		case ok && name == "limit":
			o.Limit = s.number(value)
		default:
			keys = append(keys, s.text(a))
		}
	}
	var end []byte
	if len(keys) > 1 {
		end = keys[1]
	}
	res, err := f(context.Background(), keys[0], end, o)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	for _, kv := range res.KVs {
		fmt.Fprintln(out, kvLine(kv))
	}
	fmt.Fprintf(out, "count %d\n", res.Count)
}

func (s *script) events(out *strings.Builder, v *View, args []string) {
	var o EventsOptions
	for _, a := range args[2:] {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "prefix":
			o.Match = func(k []byte) bool { return bytes.HasPrefix(k, []byte(value)) }
		case "bytes":
			o.MaxBytes = int(s.number(value))
		}
	}
	revisions, next, err := v.Events(context.Background(), s.number(args[0]), s.number(args[1]), o)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	for _, r := range revisions {
		for i := range r.Events {
			e := &r.Events[i]
			prev, err := v.PrevKV(e)
			require.NoError(s.t, err)
			fmt.Fprintf(out, "%d %s", r.Revision, s.eventLine(e))
			if prev != nil {
				fmt.Fprintf(out, " prev %s", kvLine(prev))
			}
			fmt.Fprintln(out)
		}
	}
	fmt.Fprintf(out, "next %d\n", next)
}

// stored prints every record of the store.
func (s *script) stored(out *strings.Builder) {
	it, err := s.db.pebble.NewIter(nil)
	require.NoError(s.t, err)
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		require.NoError(s.t, err)
		fmt.Fprintf(out, "%x = %x\n", it.Key(), v)
	}
	require.NoError(s.t, it.Error())
}

func (s *script) eventLine(e *Event) string {
	if e.Type == mvccpb.DELETE {
		return fmt.Sprintf("delete %s mod=%d", printable(e.KV.Key), e.KV.ModRevision)
	}
	return "put " + kvLine(e.KV)
}

func printable(b []byte) string {
	if q := strconv.Quote(string(b)); q != `"`+string(b)+`"` {
		return q
	}
	return string(b)
}

func metaLine(m Meta) string {
	return fmt.Sprintf("create=%d mod=%d version=%d lease=%d", m.Create, m.Mod.Main, m.Version, m.Lease)
}

func kvLine(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("%s=%s create=%d mod=%d version=%d lease=%d",
		printable(kv.Key), printable(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}
