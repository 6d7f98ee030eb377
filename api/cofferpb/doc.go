// Package cofferpb is the Go form of keys.proto and member.proto, the administrative protocol of a Coffer member.
//
// Its Go files are generated and committed, so that building needs no protoc. After a change to one of them:
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
//	go generate ./api/cofferpb
package cofferpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative keys.proto member.proto
