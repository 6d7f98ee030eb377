package watch

import (
	"cmp"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cofferkv/coffer/mvcc"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// span is a set of keys: one key, those from begin to before end, or all from
// begin on.
type span struct {
	begin, end string
	kind       spanKind
}

type spanKind uint8

const (
	oneKey spanKind = iota
	keyRange
	fromKey
)

// makeSpan reads key and range end as etcd's API gives them.
func makeSpan(key, end []byte) span {
	s := span{begin: string(key), end: string(end)}
	if s.begin == "" {
		s.begin = "\x00" // the smallest key
	}
	switch s.end {
	case "":
	case "\x00":
		s.kind, s.end = fromKey, ""
	default:
		s.kind = keyRange
	}
	return s
}

func (s *span) empty() bool { return s.kind == keyRange && s.begin >= s.end }

func (s *span) contains(key []byte) bool {
	switch s.kind {
	case oneKey:
		return string(key) == s.begin
	case keyRange:
		return string(key) >= s.begin && string(key) < s.end
	default:
		return string(key) >= s.begin
	}
}

// filter is the set of event types that a watcher does not want.
type filter uint8

const (
	noPut filter = 1 << iota
	noDelete
)

func makeFilter(types []pb.WatchCreateRequest_FilterType) (f filter) {
	for _, t := range types {
		switch t {
		case pb.WatchCreateRequest_NOPUT:
			f |= noPut
		case pb.WatchCreateRequest_NODELETE:
			f |= noDelete
		}
	}
	return f
}

func (f filter) drops(t mvccpb.Event_EventType) bool {
	if t == mvccpb.Event_DELETE {
		return f&noDelete != 0
	}
	return f&noPut != 0
}

// group is the watchers of one span that want the same types of events: they
// are told the same. It is also a node of the tree of ranges.
type group struct {
	span
	filter   filter
	watchers []*watcher
	matched  []*event // during Publish: what concerns the group

	rested  time.Time // when the rest after the last wake-up ends, see Hub.wake
	resting bool      // it will be woken then

	left, right *group
	priority    uint32
	maxEnd      string // largest end in this subtree,
	unbounded   bool   // unless there is one without
}

// signal wakes the streams of the group.
func (g *group) signal() {
	for _, w := range g.watchers {
		w.stream.signal()
	}
}

// wants reports whether the watchers of the group are told of an event.
func (g *group) wants(e *mvcc.Event) bool {
	return !g.filter.drops(e.Type) && g.contains(e.KV.Key)
}

// index finds the groups that an event concerns. Those of single keys are in
// a map, those of ranges in a treap ordered by begin in which each node knows
// the largest end below it.
type index struct {
	points map[string][]*group
	ranges *group
}

func newIndex() *index { return &index{points: make(map[string][]*group)} }

// find appends the groups that an event concerns to out.
func (x *index) find(e *mvcc.Event, out []*group) []*group {
	for _, g := range x.points[string(e.KV.Key)] {
		if !g.filter.drops(e.Type) {
			out = append(out, g)
		}
	}
	return x.ranges.stab(e, out)
}

// add puts a watcher into the group of its span and filter.
func (x *index) add(w *watcher, s span, f filter) {
	g := x.lookup(s, f)
	if g == nil {
		g = &group{span: s, filter: f, priority: rand.Uint32()}
		if s.kind == oneKey {
			x.points[s.begin] = append(x.points[s.begin], g)
		} else {
			x.ranges = x.ranges.insert(g)
		}
	}
	w.group, w.place = g, len(g.watchers)
	g.watchers = append(g.watchers, w)
}

// remove takes a watcher out of its group.
func (x *index) remove(w *watcher) {
	g := w.group
	last := len(g.watchers) - 1
	g.watchers[w.place] = g.watchers[last]
	g.watchers[w.place].place = w.place
	g.watchers[last] = nil
	g.watchers = g.watchers[:last]
	if last > 0 {
		return
	}
	if g.kind != oneKey {
		x.ranges = x.ranges.delete(g)
		return
	}
	groups := x.points[g.begin]
	for i := range groups {
		if groups[i] == g {
			groups[i] = groups[len(groups)-1]
			groups = groups[:len(groups)-1]
			break
		}
	}
	if len(groups) == 0 {
		delete(x.points, g.begin)
	} else {
		x.points[g.begin] = groups
	}
}

func (x *index) lookup(s span, f filter) *group {
	if s.kind == oneKey {
		for _, g := range x.points[s.begin] {
			if g.filter == f {
				return g
			}
		}
		return nil
	}
	key := &group{span: s, filter: f}
	for g := x.ranges; g != nil; {
		switch c := key.compare(g); {
		case c < 0:
			g = g.left
		case c > 0:
			g = g.right
		default:
			return g
		}
	}
	return nil
}

// compare orders the groups in the tree; no two are equal.
func (g *group) compare(o *group) int {
	return cmp.Or(strings.Compare(g.begin, o.begin), cmp.Compare(g.kind, o.kind),
		strings.Compare(g.end, o.end), cmp.Compare(g.filter, o.filter))
}

func (g *group) stab(e *mvcc.Event, out []*group) []*group {
	for g != nil && (g.unbounded || string(e.KV.Key) < g.maxEnd) {
		out = g.left.stab(e, out)
		if string(e.KV.Key) < g.begin {
			break
		}
		if g.wants(e) {
			out = append(out, g)
		}
		g = g.right
	}
	return out
}

func (g *group) insert(n *group) *group {
	if g == nil {
		n.update()
		return n
	}
	if n.compare(g) < 0 {
		g.left = g.left.insert(n)
		if g.left.priority > g.priority {
			l := g.left
			g.left, l.right = l.right, g
			g.update()
			g = l
		}
	} else {
		g.right = g.right.insert(n)
		if g.right.priority > g.priority {
			r := g.right
			g.right, r.left = r.left, g
			g.update()
			g = r
		}
	}
	g.update()
	return g
}

func (g *group) delete(n *group) *group {
	switch c := n.compare(g); {
	case c < 0:
		g.left = g.left.delete(n)
	case c > 0:
		g.right = g.right.delete(n)
	default:
		return merge(g.left, g.right)
	}
	g.update()
	return g
}

// merge joins two trees of which all of a is before all of b.
func merge(a, b *group) *group {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.update()
		return a
	default:
		b.left = merge(a, b.left)
		b.update()
		return b
	}
}

// update computes what g knows about its subtree.
func (g *group) update() {
	g.maxEnd, g.unbounded = g.end, g.kind == fromKey
	for _, c := range [...]*group{g.left, g.right} {
		if c != nil {
			g.maxEnd, g.unbounded = max(g.maxEnd, c.maxEnd), g.unbounded || c.unbounded
		}
	}
}
