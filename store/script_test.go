package store

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
)

// The language of the scripts in testdata. One request a line; a transaction
// goes on in deeper lines:
//
//	put KEY [VALUE] [lease=ID] [prev] [ignore-value] [ignore-lease]
//	del KEYS [prev]
//	get KEYS [rev=N] [limit=N] [sort=TARGET[:ORDER]] [keys] [count]
//	    [min-mod=N] [max-mod=N] [min-create=N] [max-create=N] [serializable]
//	txn
//	  if KEYS (value|create|mod|version|lease) (=|!=|<|>) OPERAND
//	  then
//	    ...
//	  else
//	    ...
//	compact N
//	grant ID ttl=N
//	revoke ID
//	checkpoint ID=N...
//	alarm (activate|deactivate|get) (NONE|NOSPACE|CORRUPT) [MEMBER]
//	version V
//	downgrade [V]
//	attributes MEMBER NAME [URL...]
//
// KEYS is a key, A..B (B excluded) or A.. (all keys from A on). "-" is the
// empty string. Quoted words follow Go's rules.

type line struct {
	indent int
	words  []string
}

func parseLines(t *testing.T, input string) []line {
	var lines []line
	for _, text := range strings.Split(input, "\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		l := line{indent: len(text) - len(strings.TrimLeft(text, " "))}
		for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
			end := strings.IndexByte(rest, ' ')
			if rest[0] == '"' {
				q, err := strconv.QuotedPrefix(rest)
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				w, _ := strconv.Unquote(q)
				l.words, rest = append(l.words, w), rest[len(q):]
				continue
			}
			if end < 0 {
				end = len(rest)
			}
			l.words, rest = append(l.words, rest[:end]), rest[end:]
		}
		lines = append(lines, l)
	}
	return lines
}

// parser goes through the lines of a script's command.
type parser struct {
	t     *testing.T
	lines []line
}

func parseRequests(t *testing.T, input string) []*pb.InternalRaftRequest {
	p := &parser{t: t, lines: parseLines(t, input)}
	var reqs []*pb.InternalRaftRequest
	for len(p.lines) > 0 {
		reqs = append(reqs, p.request())
	}
	return reqs
}

func (p *parser) request() *pb.InternalRaftRequest {
	l := p.lines[0]
	p.lines = p.lines[1:]
	a := &args{t: p.t, words: l.words[1:]}
	r := &pb.InternalRaftRequest{}
	switch l.words[0] {
	case "put":
		r.Put = &pb.PutRequest{Key: a.bytes()}
		if len(a.words) > 0 && !a.isOption() {
			r.Put.Value = a.bytes()
		}
		r.Put.Lease, r.Put.PrevKv = a.number("lease"), a.flag("prev")
		r.Put.IgnoreValue, r.Put.IgnoreLease = a.flag("ignore-value"), a.flag("ignore-lease")
	case "del":
		r.DeleteRange = &pb.DeleteRangeRequest{}
		r.DeleteRange.Key, r.DeleteRange.RangeEnd = a.keys()
		r.DeleteRange.PrevKv = a.flag("prev")
	case "get":
		r.Range = a.rangeRequest()
	case "txn":
		r.Txn = p.txn(l.indent)
	case "compact":
		r.Compaction = &pb.CompactionRequest{Revision: a.int()}
	case "grant":
		r.LeaseGrant = &pb.LeaseGrantRequest{ID: a.int(), TTL: a.number("ttl")}
	case "revoke":
		r.LeaseRevoke = &pb.LeaseRevokeRequest{ID: a.int()}
	case "checkpoint":
		r.LeaseCheckpoint = &pb.LeaseCheckpointRequest{}
		for len(a.words) > 0 {
			id, left, _ := strings.Cut(a.word(), "=")
			r.LeaseCheckpoint.Checkpoints = append(r.LeaseCheckpoint.Checkpoints,
				&pb.LeaseCheckpoint{ID: toInt(p.t, id), Remaining_TTL: toInt(p.t, left)})
		}
	case "alarm":
		r.Alarm = &pb.AlarmRequest{
			Action: pb.AlarmRequest_AlarmAction(pb.AlarmRequest_AlarmAction_value[strings.ToUpper(a.word())]),
			Alarm:  pb.AlarmType(pb.AlarmType_value[a.word()]),
		}
		if len(a.words) > 0 {
			r.Alarm.MemberID = uint64(a.int())
		}
	case "version":
		r.ClusterVersionSet = &membershippb.ClusterVersionSetRequest{Ver: a.word()}
	case "downgrade":
		r.DowngradeInfoSet = &membershippb.DowngradeInfoSetRequest{}
		if len(a.words) > 0 {
			r.DowngradeInfoSet.Enabled, r.DowngradeInfoSet.Ver = true, a.word()
		}
	case "attributes":
		r.ClusterMemberAttrSet = &membershippb.ClusterMemberAttrSetRequest{
			Member_ID:        uint64(a.int()),
			MemberAttributes: &membershippb.Attributes{Name: a.word(), ClientUrls: a.words},
		}
		a.words = nil
	default:
		p.t.Fatalf("unknown request %q", l.words[0])
	}
	a.done()
	return r
}

func (p *parser) txn(indent int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	ops := &r.Success
	for len(p.lines) > 0 && p.lines[0].indent > indent {
		l := p.lines[0]
		switch l.words[0] {
		case "if":
			p.lines = p.lines[1:]
			r.Compare = append(r.Compare, compareOf(&args{t: p.t, words: l.words[1:]}))
		case "then":
			p.lines = p.lines[1:]
			ops = &r.Success
		case "else":
			p.lines = p.lines[1:]
			ops = &r.Failure
		default:
			q := p.request()
			op := &pb.RequestOp{}
			switch {
			case q.Put != nil:
				op.Request = &pb.RequestOp_RequestPut{RequestPut: q.Put}
			case q.DeleteRange != nil:
				op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: q.DeleteRange}
			case q.Range != nil:
				op.Request = &pb.RequestOp_RequestRange{RequestRange: q.Range}
			case q.Txn != nil:
				op.Request = &pb.RequestOp_RequestTxn{RequestTxn: q.Txn}
			}
			*ops = append(*ops, op)
		}
	}
	return r
}

func compareOf(a *args) *pb.Compare {
	c := &pb.Compare{}
	c.Key, c.RangeEnd = a.keys()
	target, result := a.word(), a.word()
	c.Target = pb.Compare_CompareTarget(pb.Compare_CompareTarget_value[strings.ToUpper(target)])
	c.Result = map[string]pb.Compare_CompareResult{
		"=": pb.Compare_EQUAL, "!=": pb.Compare_NOT_EQUAL, "<": pb.Compare_LESS, ">": pb.Compare_GREATER,
	}[result]
	switch c.Target {
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: a.bytes()}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: a.int()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: a.int()}
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: a.int()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: a.int()}
	}
	a.done()
	return c
}

// args are the words after a request's name.
type args struct {
	t     *testing.T
	words []string
}

func (a *args) word() string {
	if len(a.words) == 0 {
		a.t.Fatal("a word is missing")
	}
	w := a.words[0]
	a.words = a.words[1:]
	if w == "-" {
		return ""
	}
	return w
}

func (a *args) bytes() []byte { return []byte(a.word()) }
func (a *args) int() int64    { return toInt(a.t, a.word()) }

func toInt(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (a *args) keys() (key, end []byte) {
	k, e, isRange := strings.Cut(a.word(), "..")
	if !isRange {
		return []byte(k), nil
	}
	if e == "" {
		return []byte(k), []byte{0}
	}
	return []byte(k), []byte(e)
}

func (a *args) isOption() bool {
	switch a.words[0] {
	case "prev", "ignore-value", "ignore-lease":
		return true
	}
	return strings.HasPrefix(a.words[0], "lease=")
}

// flag takes out a word, option the value of NAME=VALUE.
func (a *args) flag(name string) bool {
	for i, w := range a.words {
		if w == name {
			a.words = append(a.words[:i:i], a.words[i+1:]...)
			return true
		}
	}
	return false
}

func (a *args) option(name string) string {
	for i, w := range a.words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			a.words = append(a.words[:i:i], a.words[i+1:]...)
			return v
		}
	}
	return ""
}

func (a *args) number(name string) int64 {
	if v := a.option(name); v != "" {
		return toInt(a.t, v)
	}
	return 0
}

func (a *args) done() {
	if len(a.words) > 0 {
		a.t.Fatalf("not understood: %q", a.words)
	}
}

func (a *args) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{}
	r.Key, r.RangeEnd = a.keys()
	r.Revision, r.Limit = a.number("rev"), a.number("limit")
	r.MinModRevision, r.MaxModRevision = a.number("min-mod"), a.number("max-mod")
	r.MinCreateRevision, r.MaxCreateRevision = a.number("min-create"), a.number("max-create")
	r.KeysOnly, r.CountOnly, r.Serializable = a.flag("keys"), a.flag("count"), a.flag("serializable")
	if s := a.option("sort"); s != "" {
		target, order, _ := strings.Cut(s, ":")
		v, ok := pb.RangeRequest_SortTarget_value[strings.ToUpper(target)]
		if !ok {
			v = 99 // to see it refused
		}
		r.SortTarget = pb.RangeRequest_SortTarget(v)
		if order != "" {
			r.SortOrder = pb.RangeRequest_SortOrder(pb.RangeRequest_SortOrder_value[strings.ToUpper(order)+"END"])
		}
	}
	return r
}

// formatTo prints a response for the scripts.
func formatTo(b *strings.Builder, indent string, m any) {
	switch r := m.(type) {
	case *pb.PutResponse:
		fmt.Fprintf(b, "%sput rev=%d\n", indent, r.Header.Revision)
		if r.PrevKv != nil {
			fmt.Fprintf(b, "%s  was %s\n", indent, formatKV(r.PrevKv))
		}
	case *pb.DeleteRangeResponse:
		fmt.Fprintf(b, "%sdeleted %d rev=%d\n", indent, r.Deleted, r.Header.Revision)
		for _, kv := range r.PrevKvs {
			fmt.Fprintf(b, "%s  was %s\n", indent, formatKV(kv))
		}
	case *pb.RangeResponse:
		fmt.Fprintf(b, "%srange", indent)
		if r.Header != nil {
			fmt.Fprintf(b, " rev=%d count=%d", r.Header.Revision, r.Count)
		}
		if r.More {
			b.WriteString(" more")
		}
		b.WriteString("\n")
		for _, kv := range r.Kvs {
			fmt.Fprintf(b, "%s  %s\n", indent, formatKV(kv))
		}
	case *pb.TxnResponse:
		fmt.Fprintf(b, "%stxn rev=%d succeeded=%v\n", indent, r.Header.Revision, r.Succeeded)
		for _, op := range r.Responses {
			switch o := op.Response.(type) {
			case *pb.ResponseOp_ResponsePut:
				formatTo(b, indent+"  ", o.ResponsePut)
			case *pb.ResponseOp_ResponseDeleteRange:
				formatTo(b, indent+"  ", o.ResponseDeleteRange)
			case *pb.ResponseOp_ResponseRange:
				formatTo(b, indent+"  ", o.ResponseRange)
			case *pb.ResponseOp_ResponseTxn:
				formatTo(b, indent+"  ", o.ResponseTxn)
			}
		}
	case *pb.CompactionResponse:
		fmt.Fprintf(b, "%scompacted rev=%d\n", indent, r.Header.Revision)
	case *pb.LeaseGrantResponse:
		fmt.Fprintf(b, "%sgranted %d ttl=%d rev=%d\n", indent, r.ID, r.TTL, r.Header.Revision)
	case *pb.LeaseRevokeResponse:
		fmt.Fprintf(b, "%srevoked rev=%d\n", indent, r.Header.Revision)
	case *pb.LeaseCheckpointResponse:
		fmt.Fprintf(b, "%scheckpointed rev=%d\n", indent, r.Header.Revision)
	case *pb.AlarmResponse:
		fmt.Fprintf(b, "%salarms rev=%d%s\n", indent, r.Header.Revision, formatAlarms(r.Alarms))
	case nil:
		fmt.Fprintf(b, "%sok\n", indent)
	default:
		panic(fmt.Sprintf("no format for %T", m))
	}
}

func formatAlarms(alarms []*pb.AlarmMember) string {
	var s string
	for _, a := range alarms {
		s += fmt.Sprintf(" %s:%d", a.Alarm, a.MemberID)
	}
	return s
}
