package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/cofferkv/coffer/kms"
)

// layout is what coffer init makes.
type layout struct {
	Dir, Name, Host string
	ListenHost      string
	ClientPort      int
	PeerPort        int
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}

// Methods that the configuration file's template uses.

func (l layout) Data() string { return l.path("data") }
func (l layout) KEK() string  { return l.path("kek") }

func (l layout) PKI(name string) string { return l.path("pki", name) }

func (l layout) URL(host string, port int) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

func initCommand() *cobra.Command {
	l := layout{}
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make certificates, a key-encryption key and a configuration file for a new member",
		Long: `Make what a new member needs, in DIR:

  coffer.yaml   configuration, for coffer serve --config-file
  kek           the key-encryption key, outside the data directory: keep a copy of it elsewhere
  pki/          an authority of its own and the certificates of server, peer and client, good for a year
  data/         the data directory, made at the first start

Nothing that exists is overwritten.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			l.Dir = dir
			return l.make(cmd.OutOrStdout())
		},
	}
	host, _ := os.Hostname()
	if host == "" {
		host = "m1"
	}
	cmd.Flags().StringVar(&l.Name, "name", host, "name of the member")
	cmd.Flags().StringVar(&l.Host, "host", "127.0.0.1", "name or address under which clients and other members reach this machine; loopback: for this machine only")
	cmd.Flags().IntVar(&l.ClientPort, "client-port", 2379, "port for clients")
	cmd.Flags().IntVar(&l.PeerPort, "peer-port", 2380, "port for other members")
	return cmd
}

func (l layout) make(out io.Writer) error {
	if err := l.refuseExisting(); err != nil {
		return err
	}
	l.ListenHost = "0.0.0.0"
	if ip := net.ParseIP(l.Host); l.Host == "localhost" || ip != nil && ip.IsLoopback() {
		l.ListenHost = l.Host
	}
	if err := os.MkdirAll(l.path("pki"), 0o700); err != nil {
		return fmt.Errorf("coffer init: %w", err)
	}
	if err := l.makeCertificates(); err != nil {
		return fmt.Errorf("coffer init: %w", err)
	}
	kek, err := kms.Create("file:" + l.KEK())
	if err != nil {
		return fmt.Errorf("coffer init: %w", err)
	}
	kek.Close()
	if err := l.writeConfig(); err != nil {
		return fmt.Errorf("coffer init: %w", err)
	}
	_, err = fmt.Fprintf(out, `Made %[1]s.

Start the member:
  coffer serve --config-file %[2]s

Use it:
  etcdctl --endpoints %[3]s --cacert %[4]s --cert %[5]s --key %[6]s endpoint health

Keep a copy of %[7]s where the data is not. Without it the data cannot be read, by anyone.
`, l.Dir, l.path("coffer.yaml"), l.URL(l.Host, l.ClientPort), l.PKI("ca.crt"), l.PKI("client.crt"), l.PKI("client.key"), l.KEK())
	return err
}

// refuseExisting finds anything that make would overwrite.
func (l layout) refuseExisting() error {
	for _, name := range []string{"coffer.yaml", "kek", "pki", "data"} {
		_, err := os.Lstat(l.path(name))
		if err == nil {
			return fmt.Errorf("%s exists: coffer init overwrites nothing; start the member with `coffer serve --config-file %s`, or choose another directory", l.path(name), l.path("coffer.yaml"))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

var configTemplate = template.Must(template.New("coffer.yaml").Parse(`# Configuration of a Coffer member, in etcd's format. coffer serve --help lists every setting.

name: {{printf "%q" .Name}}
data-dir: {{printf "%q" .Data}}

# The key-encryption key. Whoever has it and the data directory can read the data; without it nobody can.
kek: {{printf "%q" (printf "file:%s" .KEK)}}

listen-client-urls: {{.URL .ListenHost .ClientPort}}
advertise-client-urls: {{.URL .Host .ClientPort}}
client-transport-security:
  cert-file: {{printf "%q" (.PKI "server.crt")}}
  key-file: {{printf "%q" (.PKI "server.key")}}
  client-cert-auth: true
  trusted-ca-file: {{printf "%q" (.PKI "ca.crt")}}

listen-peer-urls: {{.URL .ListenHost .PeerPort}}
initial-advertise-peer-urls: {{.URL .Host .PeerPort}}
peer-transport-security:
  cert-file: {{printf "%q" (.PKI "peer.crt")}}
  key-file: {{printf "%q" (.PKI "peer.key")}}
  client-cert-auth: true
  trusted-ca-file: {{printf "%q" (.PKI "ca.crt")}}
`))

func (l layout) writeConfig() error {
	f, err := os.OpenFile(l.path("coffer.yaml"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(configTemplate.Execute(f, l), f.Sync(), f.Close())
}
