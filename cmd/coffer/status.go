package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/api/cofferpb"
)

// exitSealed is the exit status of `coffer status` when a member is sealed.
const exitSealed = 2

func statusCommand() *cobra.Command {
	flags := &clientFlags{}
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how members are: open or sealed, keys, certificates, last snapshot, warnings",
		Long: `Show how the members are that --endpoints names: open or sealed, who leads, the KEK, the oldest data key, the certificate that
expires first, the last snapshot, and what somebody should do something about.

Exit status: 0 if all of them are open, 2 if one is sealed, 1 if one does not answer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "simple" && format != "json" {
				return fmt.Errorf("--write-out %s: simple or json", format)
			}
			overview := flags.overview(cmd.Context())
			if err := overview.print(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			return overview.err()
		},
	}
	flags.addTo(cmd)
	cmd.Flags().StringVarP(&format, "write-out", "w", "simple", "output format: simple or json")
	return cmd
}

// overview is what `coffer status` shows. docs/commands.md describes its form in JSON.
type overview struct {
	Members []memberStatus `json:"members"`
	// NotAsked are members of the cluster that no endpoint led to.
	NotAsked []string `json:"not_asked,omitempty"`
}

type memberStatus struct {
	Endpoint string `json:"endpoint"`
	State    string `json:"state"` // open, sealed or unknown
	Error    string `json:"error,omitempty"`

	ClusterID   string `json:"cluster_id,omitempty"`
	MemberID    string `json:"member_id,omitempty"`
	Name        string `json:"name,omitempty"`
	Role        string `json:"role,omitempty"` // leader, follower or learner
	Version     string `json:"version,omitempty"`
	EtcdVersion string `json:"etcd_version,omitempty"`
	Revision    int64  `json:"revision,omitempty"`
	Bytes       int64  `json:"bytes,omitempty"`

	KEKs         []kekStatus         `json:"keks,omitempty"`
	DataKeys     int64               `json:"data_keys,omitempty"`
	OldestKey    *time.Time          `json:"oldest_key,omitempty"`
	Certificates []certificateStatus `json:"certificates,omitempty"` // the first to expire in front
	Started      *time.Time          `json:"started,omitempty"`
	LastSnapshot *time.Time          `json:"last_snapshot,omitempty"` // since it was started
	Warnings     []string            `json:"warnings,omitempty"`
}

type kekStatus struct {
	ID  string `json:"id"`
	URI string `json:"uri"`
}

type certificateStatus struct {
	File     string    `json:"file"`
	NotAfter time.Time `json:"not_after"`
}

func (f *clientFlags) overview(ctx context.Context) overview {
	var o overview
	asked, members := map[string]bool{}, map[string]string{}
	for _, endpoint := range f.endpoints {
		m := memberStatus{Endpoint: endpoint, State: "unknown"}
		if err := f.ask(ctx, &m, members); err != nil {
			m.Error = status.Convert(err).Message()
		}
		asked[m.MemberID] = true
		o.Members = append(o.Members, m)
	}
	for id, name := range members {
		if !asked[id] {
			o.NotAsked = append(o.NotAsked, name)
		}
	}
	slices.Sort(o.NotAsked)
	return o
}

// ask fills in what a member says of itself, and the names of all members by id.
func (f *clientFlags) ask(ctx context.Context, m *memberStatus, members map[string]string) error {
	client, err := f.connect(m.Endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := f.request(ctx)
	defer cancel()
	conn := client.ActiveConnection()
	own, err := cofferpb.NewMemberClient(conn).Status(ctx, &cofferpb.StatusRequest{})
	if err != nil {
		return err
	}
	m.State = "open"
	if own.Seal == cofferpb.SealState_SEAL_STATE_SEALED {
		m.State = "sealed"
	}
	m.ClusterID, m.MemberID, m.Name, m.Version = fmt.Sprintf("%x", own.ClusterId), fmt.Sprintf("%x", own.MemberId), own.Name, own.Version
	for _, w := range own.Wraps {
		m.KEKs = append(m.KEKs, kekStatus{w.KekId, w.Uri})
	}
	m.DataKeys, m.OldestKey = own.DataKeys, moment(own.OldestKeyUnix)
	m.Started, m.LastSnapshot = moment(own.StartedUnix), moment(own.LastSnapshotUnix)
	for _, c := range own.Certificates {
		m.Certificates = append(m.Certificates, certificateStatus{c.File, time.Unix(c.NotAfterUnix, 0).UTC()})
	}
	m.Warnings = own.Warnings
	if m.State == "sealed" {
		return nil // it has nothing else to tell
	}
	etcd, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	m.EtcdVersion, m.Revision, m.Bytes = etcd.Version, etcd.Header.Revision, etcd.DbSize
	switch {
	case etcd.IsLearner:
		m.Role = "learner"
	case etcd.Leader == own.MemberId:
		m.Role = "leader"
	default:
		m.Role = "follower"
	}
	list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return nil // learners do not answer, and without a quorum nobody does: a warning says so
	}
	for _, other := range list.Members {
		members[fmt.Sprintf("%x", other.ID)] = fmt.Sprintf("%s (%s)", other.Name, strings.Join(other.ClientURLs, ", "))
	}
	return nil
}

// moment is a time that may not be there.
func moment(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}

// err says that a member is sealed or does not answer.
func (o overview) err() error {
	var silent []string
	for _, m := range o.Members {
		if m.State == "sealed" {
			return exitError{errors.New("a member is sealed"), exitSealed}
		}
		if m.Error != "" {
			silent = append(silent, m.Endpoint)
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("no complete answer from %s", strings.Join(silent, ", "))
	}
	return nil
}

func (o overview) print(out io.Writer, format string) error {
	if format == "json" {
		b, err := json.MarshalIndent(o, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", b)
		return err
	}
	var text strings.Builder
	for _, m := range o.Members {
		m.print(&text)
	}
	for _, name := range o.NotAsked {
		fmt.Fprintf(&text, "%s: not asked; name it with --endpoints\n", name)
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func (m memberStatus) print(out io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-14s%s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(out, "%s: %s\n", m.Endpoint, m.State)
	if m.Error != "" {
		line("error", "%s", m.Error)
	}
	if m.MemberID == "" {
		return
	}
	line("member", "%s (%s) of cluster %s", m.Name, m.MemberID, m.ClusterID)
	if m.Role != "" {
		line("serves", "as %s, revision %d, %s; Coffer %s, etcd's API %s", m.Role, m.Revision, humanBytes(m.Bytes), m.Version, m.EtcdVersion)
	}
	for _, k := range m.KEKs {
		line("KEK", "%s (%s)", k.URI, k.ID)
	}
	if m.OldestKey != nil {
		line("oldest key", "made %s; data keys: %d", day(*m.OldestKey), m.DataKeys)
	}
	if len(m.Certificates) > 0 {
		line("certificates", "good until %s (%s)", day(m.Certificates[0].NotAfter), m.Certificates[0].File)
	} else {
		line("certificates", "none: no listener speaks TLS")
	}
	if m.LastSnapshot != nil {
		line("last snapshot", "%s", m.LastSnapshot.Format(time.RFC3339))
	} else if m.Started != nil {
		line("last snapshot", "none since the start at %s", m.Started.Format(time.RFC3339))
	}
	for _, w := range m.Warnings {
		line("WARNING", "%s", w)
	}
}

// day is a date and how far it is away.
func day(t time.Time) string {
	days := int(time.Until(t).Hours() / 24)
	away := fmt.Sprintf("in %d days", days)
	if days <= 0 {
		away = fmt.Sprintf("%d days ago", -days)
	}
	return fmt.Sprintf("%s, %s", t.UTC().Format(time.DateOnly), away)
}
