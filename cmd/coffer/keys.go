package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/cofferkv/coffer/api/cofferpb"
)

func keysCommand() *cobra.Command {
	flags := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List and rotate the data keys of running members",
	}
	flags.addTo(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "list",
			Short: "Show the data keys, how much is under each, and the keys that wrap them",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return flags.eachMember(cmd.Context(), func(ctx context.Context, endpoint string, keys cofferpb.KeysClient) error {
					resp, err := keys.List(ctx, &cofferpb.ListRequest{})
					if err != nil {
						return err
					}
					return printKeys(cmd.OutOrStdout(), endpoint, resp)
				})
			},
		},
		&cobra.Command{
			Use:   "rotate",
			Short: "Make a new data key active; files under older keys are sealed again in the background",
			Long: `Make a new data key active, on every member that --endpoints names.

New files are sealed under it at once, older ones again in the background; keys list shows how far that has come. No
revision changes, and clients notice nothing.`,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return flags.eachMember(cmd.Context(), func(ctx context.Context, endpoint string, keys cofferpb.KeysClient) error {
					resp, err := keys.Rotate(ctx, &cofferpb.RotateRequest{})
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: data key %s is active (keyring generation %d)\n", endpoint, resp.KeyId, resp.Generation)
					return err
				})
			},
		},
	)
	return cmd
}

// eachMember does something on every endpoint: each member has keys of its own.
func (f *clientFlags) eachMember(ctx context.Context, do func(context.Context, string, cofferpb.KeysClient) error) error {
	for _, endpoint := range f.endpoints {
		client, err := f.connect(endpoint)
		if err != nil {
			return err
		}
		ctx, cancel := f.request(ctx)
		err = do(ctx, endpoint, cofferpb.NewKeysClient(client.ActiveConnection()))
		cancel()
		_ = client.Close()
		if err != nil {
			return fmt.Errorf("%s: %s", endpoint, status.Convert(err).Message())
		}
	}
	return nil
}

func printKeys(out io.Writer, endpoint string, r *cofferpb.ListResponse) error {
	fmt.Fprintf(out, "%s: member %x of cluster %x, keyring generation %d\n", endpoint, r.MemberId, r.ClusterId, r.Generation)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  DATA KEY\tSTATE\tCREATED\tGENERATIONS\tFILES\tBYTES\tOPENED BY KEK")
	for _, k := range r.Keys {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%d\t%d\t%s\n", k.Id, stateName(k.State), timeOf(k.CreatedUnix), generations(k.Since, k.Until),
			k.Files, k.Bytes, strings.Join(k.KekIds, " "))
	}
	fmt.Fprintln(w, "  KEK\tURI\tWRAPPED\tGENERATIONS")
	for _, k := range r.Wraps {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", k.KekId, k.Uri, timeOf(k.CreatedUnix), generations(k.Since, k.Until))
	}
	if err := w.Flush(); err != nil || len(r.ForeignFiles) == 0 {
		return err
	}
	_, err := fmt.Fprintf(out, "  %d bytes are in files that Coffer did not write and that no key protects; move them away: %s\n",
		r.ForeignBytes, strings.Join(r.ForeignFiles, ", "))
	return err
}

func timeOf(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// generations says in which generations of the keyring something was in force.
func generations(since, until uint64) string {
	if until == 0 {
		return fmt.Sprintf("%d-", since)
	}
	return fmt.Sprintf("%d-%d", since, until-1)
}

// stateName calls a removed key removed, never destroyed: an old copy of the keyring and a KEK that wrapped it at that
// time would still give it back.
func stateName(s cofferpb.KeyState) string {
	switch s {
	case cofferpb.KeyState_KEY_STATE_ACTIVE:
		return "active"
	case cofferpb.KeyState_KEY_STATE_DECRYPT_ONLY:
		return "decrypts only"
	case cofferpb.KeyState_KEY_STATE_REMOVED:
		return "removed"
	default:
		return "unknown"
	}
}
