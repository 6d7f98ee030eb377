package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/cofferkv/coffer/mvcc"
	"github.com/cofferkv/coffer/server"
)

// Commands on snapshots and on data directories of members that do not run, which `coffer snapshot` and etcdutl share.

// offlineFlags are what they have in common.
type offlineFlags struct{ kek, format string }

func (f *offlineFlags) addKEK(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.kek, "kek", "", "a key that wraps the snapshot or the keyring: file:PATH (default $ETCD_KEK)")
}

func (f *offlineFlags) addFormat(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVarP(&f.format, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
}

// givenKEK is the KEK that was named, by --kek or in the environment.
func (f *offlineFlags) givenKEK() (string, error) {
	uri := cmp.Or(f.kek, os.Getenv("ETCD_KEK"))
	if uri == "" {
		return "", errors.New("no key-encryption key: name one with --kek file:PATH or in ETCD_KEK")
	}
	return uri, nil
}

func snapshotStatusCommand(f *offlineFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Decrypt all of a snapshot and tell hash, revision, number of keys, size and version",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return exitError{errors.New("snapshot status requires exactly one argument"), exitBadArgs}
			}
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			uri, err := f.givenKEK()
			if err != nil {
				return err
			}
			if err := checkFormat(f.format); err != nil {
				return err
			}
			s, err := server.InspectSnapshot(args[0], uri)
			if err != nil {
				return err
			}
			return statusReport(s).print(cmd.OutOrStdout(), f.format)
		},
	}
}

func statusReport(s server.SnapshotStatus) report {
	return report{
		header: []string{"hash", "revision", "total keys", "total size", "version"},
		row:    []string{fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Summary.Revision), fmt.Sprint(s.Keys), humanBytes(s.Bytes), s.ClusterVersion},
		fields: [][2]string{{"Hash", fmt.Sprint(s.Hash)}, {"Revision", fmt.Sprint(s.Summary.Revision)}, {"Keys", fmt.Sprint(s.Keys)},
			{"Size", fmt.Sprint(s.Bytes)}, {"Version", s.ClusterVersion}},
		json: struct {
			Hash      uint32 `json:"hash"`
			Revision  int64  `json:"revision"`
			TotalKey  int    `json:"totalKey"`
			TotalSize int64  `json:"totalSize"`
			Version   string `json:"version"`
		}{s.Hash, s.Summary.Revision, s.Keys, s.Bytes, s.ClusterVersion},
	}
}

func hashKVCommand(f *offlineFlags) *cobra.Command {
	var (
		rev int64
		wal string
	)
	cmd := &cobra.Command{
		Use:   "hashkv <filename>",
		Short: "Print the hash of the history in a snapshot, or in the data directory of a member that does not run",
		Long: `Print the hash of the history in a snapshot, or in the data directory of a member that does not run.

It is the hash that etcd's HashKV and etcdutl hashkv give for the same history. A snapshot is unpacked for it, sealed under the
same key, into a directory below $TMPDIR.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			uri, err := f.givenKEK()
			if err != nil {
				return err
			}
			if err := checkFormat(f.format); err != nil {
				return err
			}
			log := zap.NewNop() // the output says all there is to say
			var h mvcc.KeyValueHash
			if info.IsDir() {
				h, err = server.DataDir{Path: args[0], WAL: wal, KEK: uri}.HashKV(cmd.Context(), rev, log)
			} else {
				h, err = server.HashKVOfSnapshot(cmd.Context(), args[0], uri, rev, log)
			}
			if err != nil {
				return err
			}
			return hashReport(h).print(cmd.OutOrStdout(), f.format)
		},
	}
	cmd.Flags().Int64Var(&rev, "rev", 0, "maximum revision to hash (default: latest revision)")
	cmd.Flags().StringVar(&wal, "wal-dir", "", "directory of the journal, if it lies outside the data directory")
	return cmd
}

func hashReport(h mvcc.KeyValueHash) report {
	hash, revision, compacted := fmt.Sprint(h.Hash), fmt.Sprint(h.Revision), fmt.Sprint(h.CompactRevision)
	return report{
		header: []string{"hash", "hash revision", "compact revision"},
		row:    []string{hash, revision, compacted},
		fields: [][2]string{{"Hash", hash}, {"Hash revision", revision}, {"Compact revision", compacted}},
		json: struct {
			Hash            uint32 `json:"hash"`
			HashRevision    int64  `json:"hashRevision"`
			CompactRevision int64  `json:"compactRevision"`
		}{h.Hash, h.Revision, h.CompactRevision},
	}
}
