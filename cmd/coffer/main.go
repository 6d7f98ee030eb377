// Command coffer is a Coffer member and the tool that looks after it. Called by the name etcd it is `coffer serve`, so
// that it can stand in etcd's place in a unit file or a container image; called by the name etcdutl it takes that tool's
// place.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "etcd":
		os.Exit(serve(os.Args[1:]))
	case "etcdutl":
		os.Exit(etcdutl(os.Args[1:]))
	}
	err := rootCommand().Execute()
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer:", err)
	}
	os.Exit(exitStatus(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "coffer",
		Short:         "A sealed key-value store that speaks etcd's v3 API",
		Long:          "Coffer is a key-value store that speaks etcd's v3 API and writes nothing to a disk that is not encrypted and authenticated.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(initCommand(), serveCommand(), statusCommand(), keysCommand(), snapshotCommand(), versionCommand(), manCommand())
	return root
}

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "serve [flags]",
		Aliases: []string{"etcd"},
		Short:   "Run a member; takes etcd's flags, environment and configuration file",
		// The flags are etcd's, parsed as etcd parses them.
		DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			os.Exit(serve(args))
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout())
		},
	}
}
