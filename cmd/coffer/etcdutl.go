package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/server"
)

// etcdutl answers as etcd's tool of that name does, with its flags and texts, about Coffer's snapshots and data
// directories. What it needs besides is the key, by --kek or ETCD_KEK.
func etcdutl(args []string) int {
	cobra.EnablePrefixMatching = true
	root := &cobra.Command{
		Use:   "etcdutl",
		Short: "An administrative command line tool for etcd3.",
	}
	// A mistake in the command line is answered with the usage, and what goes wrong later is not.
	root.PersistentPreRun = func(*cobra.Command, []string) { root.SilenceErrors, root.SilenceUsage = true, true }
	root.PersistentFlags().Duration("timeout", 10*time.Second, "accepted for etcdutl's sake: a data directory that is in use is refused at once")
	f := &offlineFlags{}
	f.addKEK(root)
	f.addFormat(root)

	snapshot := &cobra.Command{Use: "snapshot <subcommand>", Short: "Manages etcd node snapshots"}
	snapshot.AddCommand(etcdutlRestoreCommand(f), snapshotStatusCommand(f))
	root.AddCommand(snapshot, etcdutlDefragCommand(f), hashKVCommand(f),
		&cobra.Command{
			Use:   "version",
			Short: "Prints the version of etcdutl",
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "etcdutl version: %s\nAPI version: %s\n", version.Version, version.APIVersion)
				return err
			},
		},
		&cobra.Command{
			Use:   "migrate",
			Short: "Not part of coffer: there is one format of data directories",
			// Its flags do not matter.
			DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return errors.New("etcdutl migrate is not part of coffer: there is one format of data directories")
			},
		})
	root.SetArgs(args)
	err := root.Execute()
	if err != nil && root.SilenceErrors {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	return exitStatus(err)
}

// toolLog is etcdutl's log, on stderr.
func toolLog() (*zap.Logger, error) {
	c := config.Default()
	c.LogFormat = "console"
	return server.NewLogger(c)
}

func etcdutlRestoreCommand(f *offlineFlags) *cobra.Command {
	var (
		r             restoring
		skipHashCheck bool
	)
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Restores an etcd member snapshot to an etcd directory",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return exitError{errors.New("snapshot restore requires exactly one argument"), exitBadArgs}
			}
			if r.markCompacted != (r.bump > 0) {
				return exitError{errors.New("--mark-compacted required if --revision-bump > 0"), exitBadArgs}
			}
			if !skipHashCheck {
				if err := checkSum(args[0]); err != nil {
					return err
				}
			}
			log, err := toolLog()
			if err != nil {
				return err
			}
			_, _, err = r.restore(cmd, args[0], f, log)
			return err
		},
	}
	r.addTo(cmd)
	cmd.Flags().BoolVar(&skipHashCheck, "skip-hash-check", false, "Ignore snapshot integrity hash value (what is in the snapshot is authenticated all the same)")
	cmd.Flags().Uint64("initial-memory-map-size", 0, "accepted for etcdutl's sake: nothing is mapped into memory")
	return cmd
}

// checkSum compares the checksum at the end of a snapshot, without any key.
func checkSum(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size() - sha256.Size
	if size < 0 || size%512 != 0 {
		return errors.New("snapshot missing hash but --skip-hash-check=false")
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("expected sha256 %v, got %v", want, got)
	}
	return nil
}

func etcdutlDefragCommand(f *offlineFlags) *cobra.Command {
	var dir, wal string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Defragments the storage of the etcd",
		Long: `Gives the space of compacted revisions in the data directory of a member that does not run back to the file system. A
running member does that by itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := func() error {
				uri, err := f.givenKEK()
				if err != nil {
					return err
				}
				log, err := toolLog()
				if err != nil {
					return err
				}
				return server.DataDir{Path: dir, WAL: wal, KEK: uri}.Reclaim(cmd.Context(), log)
			}()
			if err != nil {
				//lint:ignore ST1005 the text is etcdutl's
				return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", dir, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "Required. Defragments a data directory not in use by etcd.")
	cmd.Flags().StringVar(&wal, "wal-dir", "", "Directory of the journal, if it lies outside the data directory")
	cobra.CheckErr(cmd.MarkFlagRequired("data-dir"))
	return cmd
}
