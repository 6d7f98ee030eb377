package api

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestLeasesAreGrantedKeptAliveAndRevoked(t *testing.T) {
	m := startMember(t)
	ctx := soon(t)
	l := m.leases()
	chosen, err := l.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
	must(t, err)
	if chosen.ID <= 0 || chosen.TTL != 60 {
		t.Errorf("granted %v", chosen)
	}
	given, err := l.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 42, TTL: -5})
	must(t, err)
	if given.ID != 42 || given.TTL != 1 {
		t.Errorf("granted %v, want the shortest lease of 1 s", given)
	}
	_, err = m.kv().Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: chosen.ID})
	must(t, err)

	ttl, err := l.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: chosen.ID, Keys: true})
	must(t, err)
	if ttl.GrantedTTL != 60 || ttl.TTL < 50 || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "k" {
		t.Errorf("time to live %v", ttl)
	}
	none, err := l.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 99})
	must(t, err)
	if none.ID != 99 || none.TTL != -1 || none.GrantedTTL != 0 || none.Header.Revision != 2 {
		t.Errorf("time to live of a lease that is not there: %v", none)
	}

	stream, err := l.LeaseKeepAlive(ctx)
	must(t, err)
	for id, want := range map[int64]int64{chosen.ID: 60, 99: 0} {
		must(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		r, err := stream.Recv()
		must(t, err)
		if r.ID != id || r.TTL != want || r.Header.MemberId != m.id || r.Header.Revision != 2 {
			t.Errorf("keep-alive of %d: %v", id, r)
		}
	}
	must(t, stream.CloseSend())

	_, err = l.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: chosen.ID})
	must(t, err)
	got, err := m.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	must(t, err)
	if got.Count != 0 || got.Header.Revision != 3 {
		t.Errorf("after the revocation: %v", got)
	}
}

func TestEtcdsClientKeepsALeaseAlive(t *testing.T) {
	m := startMember(t)
	ctx := soon(t)
	grant, err := m.client.Grant(ctx, 1)
	must(t, err)
	alive, err := m.client.KeepAlive(ctx, grant.ID)
	must(t, err)
	for range 2 {
		if r := <-alive; r == nil || r.TTL != 1 {
			t.Fatalf("got %v", r)
		}
	}
	list, err := m.client.Leases(ctx)
	must(t, err)
	if len(list.Leases) != 1 || list.Leases[0].ID != grant.ID {
		t.Errorf("leases: %v", list)
	}
}
