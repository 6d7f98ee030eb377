package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/proto"
)

func TestLocksAndElectionsAnswerAsEtcds(t *testing.T) {
	sameStory(t, func(s *story) {
		c := &coordination{story: s, lock: v3lockpb.NewLockClient(s.side.conn), election: v3electionpb.NewElectionClient(s.side.conn)}
		c.locks()
		c.elections()
		c.overHTTP()
	})
}

type coordination struct {
	*story
	lock     v3lockpb.LockClient
	election v3electionpb.ElectionClient
}

func (c *coordination) grant(id, ttl int64) {
	if _, err := c.side.lease.LeaseGrant(c.t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl}); err != nil {
		c.t.Fatal(err)
	}
}

// later makes a call that waits, and returns what says how it ended.
func later[R proto.Message](c *story, what string, call func() (R, error)) (end func() R) {
	type answer struct {
		resp R
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		resp, err := call()
		got <- answer{resp, err}
	}()
	return func() R {
		a := <-got
		return say[R](c, what)(a.resp, a.err)
	}
}

// keys waits until there are so many keys with a prefix.
func (c *coordination) keys(prefix string, n int64) {
	r := &pb.RangeRequest{Key: []byte(prefix + "/"), RangeEnd: []byte(prefix + "0"), CountOnly: true}
	for {
		resp, err := c.side.kv.Range(c.t.Context(), r)
		if err != nil {
			c.t.Fatal(err)
		}
		if resp.Count == n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *coordination) locks() {
	ctx := c.t.Context()
	c.grant(1, 600)
	c.grant(0x22, 600)
	c.grant(3, 600)
	waiting := func(ctx context.Context, what string, lease int64) func() *v3lockpb.LockResponse {
		return later(c.story, what, func() (*v3lockpb.LockResponse, error) {
			return c.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
		})
	}
	lock := func(ctx context.Context, what string, lease int64) *v3lockpb.LockResponse {
		return waiting(ctx, what, lease)()
	}
	first := lock(ctx, "lock", 1)
	lock(ctx, "lock again", 1)
	lock(ctx, "lock without its lease", 99)
	lock(ctx, "lock with a negative lease", -1)

	hurry, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	lock(hurry, "lock that is taken", 0x22)
	cancel()
	c.keys("l", 1) // the place in the queue was given up

	locked := waiting(ctx, "lock after the other", 0x22)
	c.keys("l", 2)
	say[*v3lockpb.UnlockResponse](c.story, "unlock")(c.lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: first.Key}))
	locked()
	say[*v3lockpb.UnlockResponse](c.story, "unlock again")(c.lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: first.Key}))
	say[*v3lockpb.UnlockResponse](c.story, "unlock nothing")(c.lock.Unlock(ctx, &v3lockpb.UnlockRequest{}))

	locked = waiting(ctx, "lock of which the lease ends", 3)
	c.keys("l", 2)
	if _, err := c.side.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 3}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.side.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 0x22}); err != nil {
		c.t.Fatal(err)
	}
	locked()
	anonymous, err := c.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("own")})
	if err != nil || !strings.HasPrefix(string(anonymous.Key), "own/") {
		c.t.Errorf("%s: lock without a lease: %v, %v", c.side.name, anonymous, err)
	}
	var id int64
	fmt.Sscanf(string(anonymous.Key), "own/%x", &id)
	ttl, err := c.side.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id})
	if err != nil || ttl.GrantedTTL != 60 {
		c.t.Errorf("%s: lease of a lock: %v, %v", c.side.name, ttl, err)
	}
}

func (c *coordination) elections() {
	ctx := c.t.Context()
	c.grant(4, 600)
	c.grant(5, 600)
	campaigning := func(what string, lease int64, value string) func() *v3electionpb.CampaignResponse {
		return later(c.story, what, func() (*v3electionpb.CampaignResponse, error) {
			return c.election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)})
		})
	}
	campaign := func(what string, lease int64, value string) *v3electionpb.LeaderKey {
		return campaigning(what, lease, value)().GetLeader()
	}
	leader := func() {
		say[*v3electionpb.LeaderResponse](c.story, "leader")(c.election.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}))
	}
	proclaim := func(k *v3electionpb.LeaderKey, value string) {
		say[*v3electionpb.ProclaimResponse](c.story, "proclaim")(c.election.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: k, Value: []byte(value)}))
	}
	resign := func(k *v3electionpb.LeaderKey) {
		say[*v3electionpb.ResignResponse](c.story, "resign")(c.election.Resign(ctx, &v3electionpb.ResignRequest{Leader: k}))
	}
	leader()
	watched, stop := context.WithCancel(ctx)
	defer stop()
	observed, err := c.election.Observe(watched, &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // else what is observed first is luck

	campaign("campaign without its lease", 99, "a")
	first := campaign("campaign", 4, "a")
	say[*v3electionpb.LeaderResponse](c.story, "observed")(observed.Recv())
	campaign("campaign again", 4, "b")
	say[*v3electionpb.LeaderResponse](c.story, "observed")(observed.Recv())
	leader()
	proclaim(first, "c")
	say[*v3electionpb.LeaderResponse](c.story, "observed")(observed.Recv())
	proclaim(nil, "c")
	proclaim(&v3electionpb.LeaderKey{Name: []byte("e"), Key: []byte("e/4"), Rev: 1, Lease: 4}, "d")

	elected := campaigning("campaign after the other", 5, "z")
	c.keys("e", 2)
	resign(first)
	second := elected().GetLeader()
	say[*v3electionpb.LeaderResponse](c.story, "observed")(observed.Recv())
	resign(first)
	resign(nil)
	proclaim(first, "e")
	proclaim(second, "y")
	say[*v3electionpb.LeaderResponse](c.story, "observed")(observed.Recv())
	resign(second)
	leader()
	stop()
	_, err = observed.Recv()
	fmt.Fprintln(&c.text, "observed:", err)
}

var ids = regexp.MustCompile(`"(cluster_id|member_id|raft_term)":"\d+",?`)

func (c *coordination) overHTTP() {
	c.grant(6, 600)
	for _, r := range [][2]string{
		{"lock/lock", `{"name":"aA==","lease":6}`},
		{"lock/lock", `{"name":"aA==","lease":"98"}`},
		{"lock/unlock", `{"key":"aC82"}`},
		{"lock/unlock", `not JSON`},
		{"election/leader", `{"name":"ZQ=="}`},
		{"election/campaign", `{"name":"aA==","lease":6,"value":"dg=="}`},
		{"election/leader", `{"name":"aA=="}`},
		{"election/proclaim", `{"value":"dg=="}`},
		{"election/resign", `{"leader":{"name":"aA==","key":"aC82","lease":6,"rev":1}}`},
		{"election/observe", `{"name":"aA=="}`},
		{"election/nothing", `{}`},
	} {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.side.conn.Target()+"/v3/"+r[0], strings.NewReader(r[1]))
		if err != nil {
			c.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		var body []byte
		if r[0] == "election/observe" {
			body = make([]byte, 1024)
			n, _ := resp.Body.Read(body)
			body = body[:n]
		} else if body, err = io.ReadAll(resp.Body); err != nil {
			c.t.Fatal(err)
		}
		cancel()
		resp.Body.Close()
		if r[1] == "not JSON" {
			body = nil // says where, not what, unlike etcd's
		}
		var compact bytes.Buffer // JSON has spaces at random, too
		if len(body) > 0 {
			if err := json.Compact(&compact, body); err != nil {
				c.t.Fatalf("%s: %v: %s", r[0], err, body)
			}
		}
		fmt.Fprintf(&c.text, "%s %s: %d %s\n", r[0], r[1], resp.StatusCode, ids.ReplaceAll(compact.Bytes(), nil))
	}
}
