package server

import (
	"encoding/json"
	"fmt"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// peerMember is a member as etcd's peer port describes it.
type peerMember struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// peerHandler answers on peer URLs: the versions and the members.
func (s *Server) peerHandler() http.Handler {
	mux := http.NewServeMux()
	versions := s.api.HTTPHandler()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) { versions.ServeHTTP(w, r) })
	mux.HandleFunc("GET /members", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Etcd-Cluster-ID", fmt.Sprintf("%x", s.keyring.Member().ClusterID))
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(describe(s.store.Members())) // a client that has left needs no answer
	})
	return mux
}

func describe(members []*pb.Member) []peerMember {
	out := make([]peerMember, len(members))
	for i, m := range members {
		out[i] = peerMember{m.ID, m.PeerURLs, m.IsLearner, m.Name, m.ClientURLs}
	}
	return out
}
