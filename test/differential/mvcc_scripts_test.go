package differential

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
)

// TestTheScriptsOfMVCCSayWhatEtcdDoes runs scripts of package mvcc, whose language its TestScripts explains, on etcd's
// store: the expected output must be what etcd answers, hashes included. What etcd's store has no word for (events of
// the past, held views, what is stored) is passed over.
func TestTheScriptsOfMVCCSayWhatEtcdDoes(t *testing.T) {
	for _, name := range []string{"revisions", "ranges", "hash", "random"} {
		t.Run(name, func(t *testing.T) {
			s := &etcdScript{t: t, path: filepath.Join(t.TempDir(), "db")}
			s.open()
			defer func() { s.close() }()
			datadriven.RunTest(t, filepath.Join("..", "..", "mvcc", "testdata", name), s.run)
		})
	}
}

type etcdScript struct {
	t       *testing.T
	path    string
	backend backend.Backend
	store   mvcc.WatchableKV
	removed <-chan struct{} // closed when the last compaction has removed what it made superfluous
}

func (s *etcdScript) open() {
	cfg := backend.DefaultBackendConfig(zap.NewNop())
	cfg.Path = s.path
	s.backend = backend.New(cfg)
	s.store = mvcc.New(zap.NewNop(), s.backend, &lease.FakeLessor{}, mvcc.StoreConfig{})
}

func (s *etcdScript) close() {
	if err := errors.Join(s.store.Close(), s.backend.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *etcdScript) run(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	var args []string
	for _, a := range d.CmdArgs {
		args = append(args, a.String())
	}
	switch d.Cmd {
	case "batch":
		s.batch(&out, d.Input)
	case "range":
		tx := s.store.Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
		s.rangeKeys(&out, tx, args)
		tx.End()
	case "hash":
		rev := int64(0)
		if len(args) > 0 {
			rev = s.number(args[0])
		}
		h, current, err := s.store.HashStorage().HashByRev(rev)
		if err != nil {
			return err.Error() + "\n"
		}
		fmt.Fprintf(&out, "%08x compact=%d revision=%d current=%d\n", h.Hash, h.CompactRevision, h.Revision, current)
	case "removed":
		if s.removed != nil {
			<-s.removed
		}
	case "restart":
		s.close()
		s.open()
	default:
		return d.Expected
	}
	if out.Len() == 0 {
		return "ok\n"
	}
	return out.String()
}

func (s *etcdScript) batch(out *strings.Builder, input string) {
	var tx mvcc.TxnWrite
	var events strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(input), "\n") {
		f := strings.Fields(line)
		switch args := f[1:]; f[0] {
		case "txn":
			tx = s.store.Write(traceutil.TODO())
		case "end":
			rev := tx.Rev()
			if len(tx.Changes()) > 0 {
				rev++
			}
			fmt.Fprintf(out, "revision %d\n", rev)
			for _, kv := range tx.Changes() {
				if kv.CreateRevision == 0 {
					fmt.Fprintf(&events, "event %d delete %s mod=%d\n", rev, printable(kv.Key), rev)
				} else {
					fmt.Fprintf(&events, "event %d put %s\n", rev, kvLine(kv))
				}
			}
			tx.End()
		case "put":
			leaseID := int64(0)
			if len(args) > 2 {
				leaseID = s.number(args[2])
			}
			for _, kv := range s.get(tx, s.text(args[0]), nil) {
				fmt.Fprintf(out, "replaced %s\n", metaLine(kv))
			}
			tx.Put(s.text(args[0]), s.text(args[1]), lease.LeaseID(leaseID))
		case "delete":
			var end []byte
			if len(args) > 1 {
				end = rangeEnd(s.text(args[1]))
			}
			for _, kv := range s.get(tx, s.text(args[0]), end) {
				fmt.Fprintf(out, "deleted %s %s\n", printable(kv.Key), metaLine(kv))
			}
			tx.DeleteRange(s.text(args[0]), end)
		case "range":
			s.rangeKeys(out, tx, args)
		case "compact":
			removed, err := s.store.Compact(traceutil.TODO(), s.number(args[0]))
			if err != nil {
				fmt.Fprintln(out, err)
			} else {
				s.removed = removed
			}
		default:
			s.t.Fatalf("unknown line %q", line)
		}
	}
	out.WriteString(events.String())
}

// rangeEnd turns the end of a request into the end that etcd's store takes.
func rangeEnd(end []byte) []byte {
	if len(end) == 1 && end[0] == 0 {
		return []byte{}
	}
	return end
}

func (s *etcdScript) get(tx mvcc.TxnRead, key, end []byte) []*mvccpb.KeyValue {
	res, err := tx.Range(context.Background(), key, end, mvcc.RangeOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return res.KVs
}

func (s *etcdScript) rangeKeys(out *strings.Builder, tx mvcc.TxnRead, args []string) {
	o := mvcc.RangeOptions{WithTotalCount: true}
	keysOnly := false
	var keys [][]byte
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		switch {
		case a == "count":
			o.CountOnly = true
		case a == "keys":
			keysOnly = true
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
		end = rangeEnd(keys[1])
	}
	res, err := tx.Range(context.Background(), keys[0], end, o)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	for _, kv := range res.KVs {
		if keysOnly {
			kv.Value = nil
		}
		fmt.Fprintln(out, kvLine(kv))
	}
	fmt.Fprintf(out, "count %d\n", res.Count)
}

func (s *etcdScript) number(a string) int64 {
	n, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *etcdScript) text(a string) []byte {
	if strings.HasPrefix(a, `"`) {
		u, err := strconv.Unquote(a)
		if err != nil {
			s.t.Fatal(err)
		}
		return []byte(u)
	}
	return []byte(a)
}

func printable(b []byte) string {
	if q := strconv.Quote(string(b)); q != `"`+string(b)+`"` {
		return q
	}
	return string(b)
}

func metaLine(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("create=%d mod=%d version=%d lease=%d", kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

func kvLine(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("%s=%s %s", printable(kv.Key), printable(kv.Value), metaLine(kv))
}
