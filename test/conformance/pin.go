//go:build tools

// Package conformance keeps the suites' version, and what they need, in go.mod.
package conformance

import (
	_ "go.etcd.io/etcd/tests/v3/framework"
	_ "go.etcd.io/etcd/tests/v3/robustness/report" // for tests/e2e
)
