package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/cofferkv/coffer/config"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write manual pages, one a command, into a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The flags of a member are not cobra's.
			var flags strings.Builder
			if err := config.Help(&flags); err != nil {
				return err
			}
			root := cmd.Root()
			if serve, _, err := root.Find([]string{"serve"}); err == nil {
				serve.Long = serve.Short + ".\n\n```\n" + flags.String() + "```\n"
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			header := &doc.GenManHeader{Section: "1", Source: "Coffer " + cofferVersion, Manual: "Coffer"}
			if made, err := time.Parse(time.RFC3339, date); err == nil {
				header.Date = &made // the same program writes the same pages
			}
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}
