package main

import (
	"fmt"
	"io"
	"runtime"

	"go.etcd.io/etcd/api/v3/version"

	"github.com/cofferkv/coffer/server"
)

// Set by the linker; see the Makefile.
var (
	cofferVersion = "devel"
	commit        = "unknown"
	date          = "unknown"
)

func build() server.Build {
	return server.Build{Version: cofferVersion, Commit: commit, Date: date}
}

// printVersion writes the version. Tools that ask etcd read the first line.
func printVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "etcd Version: %s\nCoffer Version: %s\nGit SHA: %s\nBuilt: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
		version.Version, cofferVersion, commit, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
