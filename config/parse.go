package config

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// ErrVersion is returned by Parse when the command line asks for the version.
var ErrVersion = errors.New("version requested")

// SyntaxError is a command line that Go's flag package rejects. Its text is that package's.
type SyntaxError struct{ Err error }

func (e *SyntaxError) Error() string { return e.Err.Error() }
func (e *SyntaxError) Unwrap() error { return e.Err }

const envPrefix = "ETCD_"

// EnvName returns the environment variable of a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Parse reads the settings from args (without the program's name), environ ("NAME=value") and the configuration file
// that one of these may name.
//
// It returns flag.ErrHelp or ErrVersion when that is all that was asked for, and a *SyntaxError for a bad command line.
// Together with any other error it returns the configuration as far as it was read, so that the error can be logged
// where the operator wants logs.
func Parse(args, environ []string) (*Config, error) {
	c := Default()
	t := newTable(c)
	if err := t.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, err
		}
		return c, &SyntaxError{err}
	}
	if t.NArg() > 0 {
		return c, fmt.Errorf("%q is not a valid flag", t.Arg(0))
	}
	if t.printVersion {
		return c, ErrVersion
	}
	env := environment(environ)
	if t.configFile == "" {
		t.configFile = env[EnvName("config-file")]
	}

	if t.configFile == "" {
		if err := t.readEnvironment(c, env, everySetting); err != nil {
			return c, err
		}
	} else {
		commandLine := t
		c = Default()
		t = newTable(c)
		t.configFile, c.File = commandLine.configFile, commandLine.configFile
		c.note(false, "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
			"path", c.File)
		if err := t.readFile(c, c.File); err != nil {
			return c, err
		}
		if err := t.override(c, commandLine, env); err != nil {
			return c, err
		}
	}
	t.Visit(func(f *flag.Flag) { c.given[f.Name] = true })
	t.takeStock(c)
	return c, c.derive()
}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) {
			env[name] = value
		}
	}
	return env
}

func everySetting(*entry) bool { return true }
func ownSetting(e *entry) bool { return e.own }

// override lays Coffer's own flags and variables over what the file said.
func (t *table) override(c *Config, commandLine *table, env map[string]string) error {
	own := map[string]bool{}
	var err error
	commandLine.Visit(func(f *flag.Flag) {
		if commandLine.byName[f.Name].own {
			own[f.Name] = true
			err = errors.Join(err, t.Set(f.Name, f.Value.String()))
		}
	})
	if err != nil {
		return err
	}
	return t.readVariables(c, env, own, ownSetting)
}

// readEnvironment takes settings from variables, refuses those a flag shadows, and notes those it does not know.
func (t *table) readEnvironment(c *Config, env map[string]string, which func(*entry) bool) error {
	set := map[string]bool{}
	t.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if _, ok := env["ETCD_VERSION"]; ok {
		c.note(true, "cannot set special environment variable", "key", "ETCD_VERSION")
		delete(env, "ETCD_VERSION")
	}
	known := map[string]bool{"ETCD_UNSUPPORTED_ARCH": true} // etcd asks for it on rare machines; here all are alike
	for _, e := range t.entries {
		known[EnvName(e.name)] = true
	}
	for name := range env {
		if !known[name] {
			// The value is not logged: whatever it is, it was not meant for us.
			c.note(true, "unrecognized environment variable", "environment-variable", name)
		}
	}
	return t.readVariables(c, env, set, which)
}

// readVariables takes settings from variables. Those in set have been given by a flag.
func (t *table) readVariables(c *Config, env map[string]string, set map[string]bool, which func(*entry) bool) error {
	for _, e := range t.entries {
		name := EnvName(e.name)
		value, ok := env[name]
		if !ok || !which(e) {
			continue
		}
		if set[e.name] {
			return fmt.Errorf("conflicting environment variable %s is shadowed by corresponding command-line flag --%s (either unset environment variable or disable flag)", name, e.name)
		}
		if value == "" {
			continue
		}
		if err := t.Set(e.name, value); err != nil {
			if e.secret {
				return fmt.Errorf("invalid value for %s", name)
			}
			return fmt.Errorf("invalid value %q for %s: %w", value, name, err)
		}
		if e.secret {
			value = "***"
		}
		c.note(false, "recognized and used environment variable", "variable-name", name, "variable-value", value)
	}
	return nil
}

// takeStock notes the settings that were given and do nothing, and keeps those that cannot be honoured.
func (t *table) takeStock(c *Config) {
	for _, e := range t.entries {
		if !c.given[e.name] {
			continue
		}
		f := t.Lookup(e.name)
		if e.deprecation != "" {
			c.note(true, e.deprecation)
		}
		switch {
		case e.noEffect != "":
			c.note(true, "setting has no effect in Coffer", "setting", "--"+e.name, "reason", e.noEffect)
		case e.refusal != "" && f.Value.String() != f.DefValue:
			c.refused = append(c.refused, "--"+e.name+": "+e.refusal)
		}
	}
	for _, gate := range c.Features.withoutEffect() {
		name, reason, _ := strings.Cut(gate, ": ")
		c.note(true, "setting has no effect in Coffer", "setting", "--feature-gates "+name, "reason", reason)
	}
}

// derive fills in what follows from other settings.
func (c *Config) derive() error {
	if c.File == "" && c.given["listen-client-urls"] && !c.given["advertise-client-urls"] {
		c.advertiseClientMissing = true
	}
	c.advertiseHost()
	if c.InitialCluster == "" {
		var pairs []string
		for _, u := range c.AdvertisePeerURLs {
			pairs = append(pairs, c.Name+"="+u.String())
		}
		c.InitialCluster = strings.Join(pairs, ",")
	}
	if c.DataDir == "" {
		c.DataDir = c.Name + ".etcd"
		c.note(true, "'data-dir' was empty; using default", "data-dir", c.DataDir)
	}
	if len(c.LogOutputs) == 0 {
		c.LogOutputs = []string{"default"}
	}
	if c.SelfSignedCertValidity == 0 {
		c.SelfSignedCertValidity = 1
	}
	return nil
}

// advertiseHost replaces localhost in advertised URLs that were not given by the address of this machine's default
// route, if the member listens on 0.0.0.0.
func (c *Config) advertiseHost() {
	replace := func(advertised, listening []url.URL, byDefault string) []url.URL {
		if len(listening) == 0 || listening[0].Hostname() != "0.0.0.0" || types.URLs(advertised).String() != byDefault {
			return advertised
		}
		host := defaultHost()
		if host == "" {
			return advertised
		}
		c.note(false, "detected default host for advertise", "host", host)
		return []url.URL{{Scheme: advertised[0].Scheme, Host: net.JoinHostPort(host, listening[0].Port())}}
	}
	c.AdvertisePeerURLs = replace(c.AdvertisePeerURLs, c.ListenPeerURLs, DefaultPeerURL)
	c.AdvertiseClientURLs = replace(c.AdvertiseClientURLs, c.ListenClientURLs, DefaultClientURL)
}

// defaultHost returns the address this machine would use to reach the world, or "". Connecting a UDP socket sends
// nothing: it only asks the routing table.
var defaultHost = func() string {
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		host, _, err := net.SplitHostPort(conn.LocalAddr().String())
		_ = conn.Close()
		if err == nil {
			return host
		}
	}
	return ""
}
