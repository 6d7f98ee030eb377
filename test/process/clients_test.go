package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

// TestTheRecipesOfEtcdsClientWork goes through the packages of etcd's Go
// client that build on the API: each makes use of it in a way of its own.
func TestTheRecipesOfEtcdsClientWork(t *testing.T) {
	m := newCoffer(t)
	m.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	value := func(kv clientv3.KV, key string) string {
		t.Helper()
		resp, err := kv.Get(ctx, key)
		must(err)
		if len(resp.Kvs) == 0 {
			return ""
		}
		return string(resp.Kvs[0].Value)
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}

	t.Run("concurrency", func(t *testing.T) {
		c := m.client(t)
		session := func() *concurrency.Session {
			s, err := concurrency.NewSession(c, concurrency.WithTTL(5))
			must(err)
			t.Cleanup(func() { s.Close() })
			return s
		}
		first, second := concurrency.NewMutex(session(), "lock"), concurrency.NewMutex(session(), "lock")
		must(first.Lock(ctx))
		if err := second.TryLock(ctx); err != concurrency.ErrLocked {
			t.Errorf("a lock that is taken: %v", err)
		}
		got := make(chan error)
		go func() { got <- second.Lock(ctx) }()
		must(first.Unlock(ctx))
		must(<-got)

		e := concurrency.NewElection(session(), "election")
		observed := e.Observe(ctx)
		must(e.Campaign(ctx, "me"))
		expect("leader", string((<-observed).Kvs[0].Value), "me")
		must(e.Resign(ctx))

		// Increments by two clients at once are not lost.
		done := make(chan error)
		for range 2 {
			go func() {
				for range 20 {
					_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
						n := 0
						fmt.Sscan(s.Get("count"), &n)
						s.Put("count", fmt.Sprint(n+1))
						return nil
					})
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		must(<-done)
		must(<-done)
		expect("count", value(c, "count"), "40")
	})

	t.Run("namespace", func(t *testing.T) {
		c := m.client(t)
		kv, w := namespace.NewKV(c.KV, "team/"), namespace.NewWatcher(c.Watcher, "team/")
		events := w.Watch(ctx, "", clientv3.WithPrefix())
		_, err := kv.Put(ctx, "key", "v")
		must(err)
		expect("in the name space", value(kv, "key"), "v")
		expect("from outside", value(c, "team/key"), "v")
		expect("event", string((<-events).Events[0].Kv.Key), "key")
	})

	t.Run("leasing", func(t *testing.T) {
		owner, end, err := leasing.NewKV(m.client(t), "leases/")
		must(err)
		defer end()
		other, endOther, err := leasing.NewKV(m.client(t), "leases/")
		must(err)
		defer endOther()
		_, err = owner.Put(ctx, "cached", "1")
		must(err)
		expect("owner", value(owner, "cached"), "1")
		_, err = other.Put(ctx, "cached", "2") // asks the owner to give its copy up
		must(err)
		expect("owner after another's write", value(owner, "cached"), "2")
	})

	t.Run("ordering", func(t *testing.T) {
		c := m.client(t)
		kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error {
			return fmt.Errorf("an answer went back in time")
		})
		for i := range 20 {
			_, err := c.Put(ctx, "ordered", fmt.Sprint(i))
			must(err)
			_, err = kv.Get(ctx, "ordered", clientv3.WithSerializable())
			must(err)
		}
	})

	t.Run("mirror", func(t *testing.T) {
		c := m.client(t)
		for i := range 30 {
			_, err := c.Put(ctx, fmt.Sprintf("mirrored/%02d", i), "v")
			must(err)
		}
		s := mirror.NewSyncer(c, "mirrored/", 0)
		pages, errs := s.SyncBase(ctx)
		n := 0
		for page := range pages {
			n += len(page.Kvs)
		}
		must(<-errs)
		expect("keys", fmt.Sprint(n), "30")
		updates := s.SyncUpdates(ctx)
		_, err := c.Delete(ctx, "mirrored/07")
		must(err)
		expect("update", string((<-updates).Events[0].Kv.Key), "mirrored/07")
	})

	t.Run("naming", func(t *testing.T) {
		c := m.client(t)
		em, err := endpoints.NewManager(c, "service")
		must(err)
		watched, err := em.NewWatchChannel(ctx)
		must(err)
		must(em.AddEndpoint(ctx, "service/a", endpoints.Endpoint{Addr: "10.0.0.1:80"}))
		expect("endpoint", (<-watched)[0].Endpoint.Addr, "10.0.0.1:80")
		list, err := em.List(ctx)
		must(err)
		expect("endpoints", fmt.Sprint(len(list)), "1")
	})
}

// TestANodeClientWorks installs the npm package etcd3, a client with an
// implementation of its own, and lets it do what it can.
func TestANodeClientWorks(t *testing.T) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatal("install Node.js, as scripts/install-test-tools does: ", err)
		}
	}
	m := newCoffer(t)
	m.start(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/etcd3")); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "ENDPOINT="+m.endpoint)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		return string(out)
	}
	run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	if out := run("node", "client.js"); !strings.HasSuffix(out, "done\n") {
		t.Error(out)
	}
}

// TestCurlWorks sends requests as etcd's documentation writes them, and fetches
// a profile, which is served where it was asked for.
func TestCurlWorks(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("install curl, as scripts/install-test-tools does: ", err)
	}
	m := newCoffer(t, "--enable-pprof", "--log-level=debug")
	m.start(t)
	curl := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--fail-with-body"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("curl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, c := range []struct{ path, body, want string }{
		{"/v3/kv/put", `{"key": "Zm9v", "value": "YmFy"}`, `"revision":"2"`},
		{"/v3/kv/range", `{"key": "Zm9v"}`, `"value":"YmFy"`},
		{"/v3/kv/txn", `{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}`, `"succeeded":true`},
		{"/v3/lease/grant", `{"TTL": 60, "ID": 7}`, `"TTL":"60"`},
		{"/v3/lock/lock", `{"name": "bA==", "lease": 7}`, `"key":"bC83"`},
		{"/v3/election/campaign", `{"name": "ZQ==", "lease": 7, "value": "dg=="}`, `"leader":`},
		{"/v3/maintenance/status", `{}`, `"leader":`},
	} {
		if out := strings.ReplaceAll(curl("-X", "POST", "-d", c.body, m.endpoint+c.path), " ", ""); !strings.Contains(out, c.want) {
			t.Errorf("%s: %s, want %s", c.path, out, c.want)
		}
	}
	profile := filepath.Join(t.TempDir(), "heap")
	curl("-o", profile, m.endpoint+"/debug/pprof/heap")
	f, err := os.Open(profile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 2)
	if _, err := io.ReadFull(f, head); err != nil || head[0] != 0x1f || head[1] != 0x8b {
		t.Errorf("no profile: % x, %v", head, err)
	}
}
