package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// clientFlags say which member to talk to, and how, by etcdctl's flags and environment.
type clientFlags struct {
	endpoints            []string
	caCert, cert, key    string
	user, password       string
	skipVerify           bool
	dialTimeout, timeout time.Duration
}

// addTo adds the flags to cmd and those below it.
func (f *clientFlags) addTo(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringSliceVar(&f.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "client URLs of members")
	fs.StringVar(&f.caCert, "cacert", "", "authority that has signed the member's certificate")
	fs.StringVar(&f.cert, "cert", "", "client certificate")
	fs.StringVar(&f.key, "key", "", "its private key")
	fs.StringVar(&f.user, "user", "", "user, as NAME or NAME:PASSWORD; not needed where the certificate names one")
	fs.StringVar(&f.password, "password", "", "the user's password, if --user has none; others can see it on the command line, not in ETCDCTL_PASSWORD")
	fs.BoolVar(&f.skipVerify, "insecure-skip-tls-verify", false, "do not check the member's certificate: anyone could answer in its place")
	fs.DurationVar(&f.dialTimeout, "dial-timeout", 2*time.Second, "time to connect")
	fs.DurationVar(&f.timeout, "command-timeout", 5*time.Second, "time for one request, snapshots excepted")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error { return fromEnvironment(fs) }
}

// fromEnvironment sets the flags that were not given from etcdctl's variables: --cacert from ETCDCTL_CACERT.
func fromEnvironment(fs *pflag.FlagSet) error {
	var err error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "ETCDCTL_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(name)
		if value == "" || f.Changed || err != nil {
			return
		}
		if setErr := fs.Set(f.Name, value); setErr != nil {
			err = fmt.Errorf("%s: %w", name, setErr)
		}
	})
	return err
}

// connect returns a client of one endpoint.
func (f *clientFlags) connect(endpoint string) (*clientv3.Client, error) {
	c := clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: f.dialTimeout,
		Logger:      zap.NewNop(),
	}
	c.Username, c.Password = f.user, f.password
	if name, password, ok := strings.Cut(f.user, ":"); ok && f.password == "" {
		c.Username, c.Password = name, password
	}
	if c.Username != "" && c.Password == "" {
		return nil, errors.New("--user: no password: give NAME:PASSWORD, or set ETCDCTL_PASSWORD")
	}
	encrypted := strings.HasPrefix(endpoint, "https://") || strings.HasPrefix(endpoint, "unixs:")
	plain := strings.HasPrefix(endpoint, "http://") || strings.HasPrefix(endpoint, "unix:")
	if encrypted || !plain && (f.caCert != "" || f.cert != "" || f.skipVerify) {
		var err error
		if c.TLS, err = f.tls(); err != nil {
			return nil, err
		}
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return client, nil
}

func (f *clientFlags) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.skipVerify}
	if f.caCert != "" {
		text, err := os.ReadFile(f.caCert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--cacert %s: no certificate in PEM form", f.caCert)
		}
	}
	if f.cert != "" || f.key != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// request returns a context for one request.
func (f *clientFlags) request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, f.timeout)
}
