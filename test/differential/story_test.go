package differential

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pmezard/go-difflib/difflib"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// story is what a side has answered, a line each.
type story struct {
	t    *testing.T
	side *side
	text strings.Builder
}

// sameStory has etcd and coffer go through the same, and compares what each
// of them has to say.
func sameStory(t *testing.T, tell func(*story)) {
	etcd, coffer := &story{t: t, side: startEtcd(t)}, &story{t: t, side: startCoffer(t)}
	tell(etcd)
	tell(coffer)
	if etcd.text.String() == coffer.text.String() {
		return
	}
	diff, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(etcd.text.String()), B: difflib.SplitLines(coffer.text.String()),
		FromFile: "etcd", ToFile: "coffer", Context: 3,
	})
	t.Error(diff)
}

// say adds an answer to the story.
func say[R proto.Message](c *story, what string) func(resp R, err error) R {
	return func(resp R, err error) R {
		if err != nil {
			s := status.Convert(err)
			fmt.Fprintf(&c.text, "%s: %s: %s\n", what, s.Code(), s.Message())
			return resp
		}
		// The text of messages has spaces at random.
		fmt.Fprintf(&c.text, "%s: %s\n", what, strings.ReplaceAll(fmt.Sprint(neutral(resp)), "  ", " "))
		return resp
	}
}
