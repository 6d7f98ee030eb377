package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/config"
	"github.com/cofferkv/coffer/seal"
	"github.com/cofferkv/coffer/server"
)

func snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save, show, verify and restore snapshots",
		Long: `A snapshot stands alone: with one of the keys that wrap it, it can be restored without anything of the data directory it
came from. etcdctl snapshot save makes the same file.`,
	}
	f := &offlineFlags{}
	verify, restore, status, hashKV := snapshotVerifyCommand(f), snapshotRestoreCommand(f), snapshotStatusCommand(f), hashKVCommand(f)
	for _, offline := range []*cobra.Command{verify, restore, status, hashKV} {
		f.addKEK(offline)
	}
	for _, reported := range []*cobra.Command{status, hashKV} {
		f.addFormat(reported)
	}
	cmd.AddCommand(snapshotSaveCommand(), snapshotShowCommand(), verify, restore, status, hashKV)
	return cmd
}

func snapshotSaveCommand() *cobra.Command {
	flags := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save a snapshot of a running member",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(flags.endpoints) != 1 {
				return errors.New("snapshot save asks one member: name one endpoint")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			n, err := flags.saveSnapshot(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Saved %d bytes to %s\n", n, args[0])
			return err
		},
	}
	flags.addTo(cmd)
	return cmd
}

// saveSnapshot writes a snapshot to path, which exists when all of it is durable, and not before.
func (f *clientFlags) saveSnapshot(ctx context.Context, path string) (n int64, err error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s exists: a snapshot overwrites nothing; name another file", path)
	}
	client, err := f.connect(f.endpoints[0])
	if err != nil {
		return 0, err
	}
	defer client.Close()
	part := path + ".part"
	out, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	n, err = receiveSnapshot(ctx, pb.NewMaintenanceClient(client.ActiveConnection()), out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return 0, fmt.Errorf("save a snapshot from %s: %s", f.endpoints[0], status.Convert(err).Message())
	}
	if err := os.Rename(part, path); err != nil {
		return 0, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	return n, errors.Join(dir.Sync(), dir.Close())
}

// receiveSnapshot writes the stream to out and checks the checksum at its end.
func receiveSnapshot(ctx context.Context, client pb.MaintenanceClient, out io.Writer) (int64, error) {
	stream, err := client.Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return 0, err
	}
	tail := &tailHash{sum: sha256.New()}
	for {
		resp, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		if _, err := io.MultiWriter(out, tail).Write(resp.Blob); err != nil {
			return 0, err
		}
	}
	return tail.n, tail.check()
}

// tailHash hashes all but the last 32 bytes, which are the checksum of the others.
type tailHash struct {
	sum  hash.Hash
	tail []byte
	n    int64
}

func (t *tailHash) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	t.tail = append(t.tail, p...)
	if over := len(t.tail) - sha256.Size; over > 0 {
		t.sum.Write(t.tail[:over])
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
	return len(p), nil
}

func (t *tailHash) check() error {
	if t.n%512 != sha256.Size || !bytes.Equal(t.sum.Sum(nil), t.tail) {
		return fmt.Errorf("the stream ended early or was damaged (%d bytes)", t.n)
	}
	return nil
}

func snapshotShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a snapshot says of itself; needs no key, and proves nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			meta, err := seal.ReadSnapshotMeta(f)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printMeta(cmd.OutOrStdout(), meta)
		},
	}
}

func printMeta(out io.Writer, meta seal.SnapshotMeta) error {
	_, err := fmt.Fprintf(out, "Cluster:  %x\nMember:   %x\nRevision: %d\nCreated:  %s\n",
		meta.Member.ClusterID, meta.Member.MemberID, meta.Revision, meta.Created.UTC().Format(time.RFC3339))
	for _, k := range meta.KEKs {
		_, e := fmt.Fprintf(out, "Opens with KEK: %s (%s)\n", k.KEK, k.URI)
		err = errors.Join(err, e)
	}
	return err
}

func snapshotVerifyCommand(f *offlineFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE --kek URI",
		Short: "Decrypt and check all of a snapshot",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			uri, err := f.givenKEK()
			if err != nil {
				return err
			}
			s, err := server.InspectSnapshot(args[0], uri)
			if err != nil {
				return err
			}
			if err := printMeta(cmd.OutOrStdout(), s.SnapshotMeta); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "All %d bytes are authentic: %d keys.\n", s.Bytes, s.Keys)
			return err
		},
	}
}

func snapshotRestoreCommand(f *offlineFlags) *cobra.Command {
	var r restoring
	cmd := &cobra.Command{
		Use:   "restore FILE --kek URI --data-dir DIR",
		Short: "Make a new data directory, for a new cluster, out of a snapshot",
		Long: `Make a new data directory out of a snapshot, for the first member of a new cluster.

Keys, leases and alarms are the snapshot's; member and cluster have new identities. Start the member with the same --kek,
--name, --initial-cluster, --initial-cluster-token and --initial-advertise-peer-urls.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.markCompacted && r.bump == 0 {
				return errors.New("--mark-compacted needs --bump-revision")
			}
			made, dir, err := r.restore(cmd, args[0], f, zap.NewNop())
			if err != nil {
				return fmt.Errorf("restore %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Restored %s at revision %d, for member %x of cluster %x.\n",
				dir, made.Revision, made.Member.MemberID, made.Member.ClusterID)
			return err
		},
	}
	r.addTo(cmd)
	return cmd
}

// restoring is what a restore is told by flags, which are etcdutl's.
type restoring struct {
	settings      map[string]*string // of the member
	bump          uint64
	markCompacted bool
}

func (r *restoring) addTo(cmd *cobra.Command) {
	r.settings = map[string]*string{}
	for _, f := range [][2]string{
		{"data-dir", "data directory to make (default NAME.etcd)"},
		{"wal-dir", "directory of the journal, if it is to lie outside the data directory"},
		{"name", "name of the member (default \"default\")"},
		{"initial-cluster", "members of the new cluster (default this member alone)"},
		{"initial-cluster-token", "makes the ids of clusters with the same members different (default \"etcd-cluster\")"},
		{"initial-advertise-peer-urls", "the member's peer URLs (default \"http://localhost:2380\")"},
	} {
		r.settings[f[0]] = cmd.Flags().String(f[0], "", f[1])
	}
	cmd.Flags().Uint64Var(&r.bump, "bump-revision", 0, "raise the revision by so much, so that no client takes old revisions for new ones; compacts all before")
	cmd.Flags().BoolVar(&r.markCompacted, "mark-compacted", false, "as etcdutl: compact the revisions before the raised one; --bump-revision does so in any case")
}

// restore makes a data directory out of a snapshot and returns where.
func (r *restoring) restore(cmd *cobra.Command, file string, flags *offlineFlags, log *zap.Logger) (*server.Restored, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	uri, err := flags.givenKEK()
	if err != nil {
		return nil, "", err
	}
	given := []string{"--kek=" + uri}
	for name, value := range r.settings {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name+"="+*value)
		}
	}
	c, err := config.Parse(given, nil)
	if err != nil {
		return nil, "", err
	}
	made, err := server.Restore(cmd.Context(), c, f, int64(r.bump), log)
	return made, c.DataDir, err
}
