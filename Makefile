# Coffer. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.cofferVersion=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

DEMO ?= coffer-demo

## build: bin/coffer, without cgo, with version, commit and date stamped in
.PHONY: build
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/coffer ./cmd/coffer

## run: set up a member in ./coffer-demo, start it, put a value, show that the disk does not hold it; again: goes on
.PHONY: run
run: build bin/etcdctl
	scripts/demo bin $(DEMO)

## stop: end the member that `make run` started
.PHONY: stop
stop:
	scripts/demo-stop $(DEMO)

bin/etcdctl bin/etcdutl:
	scripts/build-etcd-tools bin

## tools: install what the tests need besides Go (Debian packages), and build etcd's command-line tools into bin/
.PHONY: tools
tools: bin/etcdctl bin/etcdutl
	scripts/install-test-tools

## test: everything in its short form, the nested modules included
.PHONY: test
test: tools unit process differential conformance-short kubernetes

## unit: the packages' own tests
.PHONY: unit
unit:
	go test ./...

## race: the packages in which goroutines meet, under the race detector
.PHONY: race
race:
	CGO_ENABLED=1 go test -race $(RACE_PACKAGES)

RACE_PACKAGES := ./seal ./keyring ./journal ./mvcc ./store ./auth ./watch ./lease ./raftnode ./api ./server

## lint: formatting, vet, staticcheck
.PHONY: lint
lint:
	scripts/lint

## process: a real process killed, tampered with, filled up and read from outside
.PHONY: process
process: build
	cd test/process && go test -count=1 -timeout 30m ./...

## differential: the same requests to coffer and to a real etcd, every answer compared
.PHONY: differential
differential:
	cd test/differential && go test -count=1 -timeout 30m ./...

## conformance: etcd's own suites, common and e2e, against coffer, compared with the lists of what does not pass yet
.PHONY: conformance
conformance: build
	cd test/conformance && go test -count=1 -timeout 90m ./...

## conformance-short: the whole of common, and of e2e one test of each kind
.PHONY: conformance-short
conformance-short: build
	cd test/conformance && go test -short -count=1 -timeout 40m ./...

## kubernetes: a real kube-apiserver on coffer, killed and restarted; kubeadm's manifest
.PHONY: kubernetes
kubernetes: build
	cd test/kubernetes && go test -count=1 -timeout 40m ./...

## long: the long forms of all tests (hours)
.PHONY: long
long: tools build
	COFFER_LONG=1 go test -count=1 -timeout 6h ./...
	for module in process differential; do (cd test/$$module && COFFER_LONG=1 go test -count=1 -timeout 6h ./...); done

## bench: the yardstick, coffer and etcd side by side (BENCH="-tls", "scale", "tail", "soak" and more: see test/bench)
.PHONY: bench
bench: build
	cd test/bench && go run . $(BENCH) -coffer ../../bin/coffer

## bench-packages: benchmarks of the packages
.PHONY: bench-packages
bench-packages:
	go test -run '^$$' -bench . -benchmem ./...

## fuzz: every fuzz target for FUZZTIME (default 30s)
.PHONY: fuzz
fuzz:
	scripts/fuzz $${FUZZTIME:-30s}

## proto: generate api/cofferpb again
.PHONY: proto
proto:
	scripts/generate-proto

## help: this list
.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)
