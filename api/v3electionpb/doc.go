// Package v3electionpb is the Go form of v3election.proto, etcd's Election service. etcd's own Go package of it is part
// of etcd's server, on which a Coffer member does not depend; the two cannot be linked into one program.
//
// Its Go files are generated and committed; after a change: make proto.
package v3electionpb
