//go:build tools

// Package conformance keeps the suite's version, and what it needs, in go.mod.
package conformance

import _ "go.etcd.io/etcd/tests/v3/framework"
