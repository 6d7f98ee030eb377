package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// sections are the mappings of etcd's configuration file and the flags their keys stand for.
var sections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file":                    "cert-file",
		"key-file":                     "key-file",
		"client-cert-file":             "client-cert-file",
		"client-key-file":              "client-key-file",
		"client-cert-auth":             "client-cert-auth",
		"trusted-ca-file":              "trusted-ca-file",
		"auto-tls":                     "auto-tls",
		"allowed-cn":                   clientAllowedCN,
		"allowed-hostname":             "client-cert-allowed-hostname",
		"skip-client-san-verification": "", // clients' addresses are never compared with their certificates
	},
	"peer-transport-security": {
		"cert-file":                    "peer-cert-file",
		"key-file":                     "peer-key-file",
		"client-cert-file":             "peer-client-cert-file",
		"client-key-file":              "peer-client-key-file",
		"client-cert-auth":             "peer-client-cert-auth",
		"trusted-ca-file":              "peer-trusted-ca-file",
		"auto-tls":                     "peer-auto-tls",
		"allowed-cn":                   "peer-cert-allowed-cn",
		"allowed-hostname":             "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"socket-options": {
		"reuse-port":    "socket-reuse-port",
		"reuse-address": "socket-reuse-address",
	},
	"discovery-config": {
		"discovery-token":     "discovery-token",
		"discovery-endpoints": "discovery-endpoints",
	},
}

// clientAllowedCN is a setting that etcd has in its file but not as a flag.
const clientAllowedCN = "client-cert-allowed-cn"

// readFile takes settings from a YAML file: etcd's keys, which are the flags' names and the sections above, and every
// other flag's name. Numbers and switches may be quoted. A key it does not know is noted, as etcd ignores it.
func (t *table) readFile(c *Config, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration file: %w", err)
	}
	doc, err := decodeYAML(text)
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(doc)) {
		value := doc[key]
		section, isSection := sections[key]
		if !isSection {
			if err := t.setFromFile(c, path, key, key, value); err != nil {
				return err
			}
			continue
		}
		if value == nil {
			continue
		}
		mapping, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("configuration file %s: %s must be a mapping of keys to values", path, key)
		}
		for _, inner := range slices.Sorted(maps.Keys(mapping)) {
			flag, known := section[inner]
			if !known {
				c.note(true, "unrecognized key in configuration file", "path", path, "key", key+"."+inner)
				continue
			}
			if err := t.setFromFile(c, path, key+"."+inner, flag, mapping[inner]); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeYAML(text []byte) (map[string]any, error) {
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(string(asJSON)))
	decoder.UseNumber()
	var doc map[string]any
	if err := decoder.Decode(&doc); err != nil {
		return nil, fmt.Errorf("not a mapping of settings to values: %w", err)
	}
	return doc, nil
}

func (t *table) setFromFile(c *Config, path, key, flag string, value any) error {
	if value == nil || flag == "" {
		return nil
	}
	text, err := scalar(value)
	if err != nil {
		return fmt.Errorf("configuration file %s: %s: %w", path, key, err)
	}
	if flag == clientAllowedCN {
		c.Client.AllowedCNs = nil
		if text != "" {
			c.Client.AllowedCNs = strings.Split(text, ",")
		}
		return nil
	}
	e, known := t.byName[flag]
	if !known || flag == "config-file" || flag == "version" {
		c.note(true, "unrecognized key in configuration file", "path", path, "key", key)
		return nil
	}
	if number, ok := value.(json.Number); ok && e.duration {
		nanoseconds, err := number.Int64()
		if err != nil {
			return fmt.Errorf("configuration file %s: %s: a duration is a whole number of nanoseconds or a text such as \"10m\": %w", path, key, err)
		}
		text = time.Duration(nanoseconds).String()
	}
	if text == "" && t.Lookup(flag).Value.String() == "" {
		return nil
	}
	if text == "" && flag == "initial-cluster-state" {
		return nil
	}
	if err := t.Set(flag, text); err != nil {
		if e.secret {
			return fmt.Errorf("configuration file %s: invalid value for %s", path, key)
		}
		return fmt.Errorf("configuration file %s: invalid value %q for %s: %w", path, text, key, err)
	}
	return nil
}

// scalar returns value as the text a flag would have been given.
func scalar(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		if v {
			return "true", nil
		}
		return "false", nil
	case json.Number:
		return v.String(), nil
	case []any:
		texts := make([]string, len(v))
		for i, item := range v {
			text, err := scalar(item)
			if err != nil {
				return "", err
			}
			texts[i] = text
		}
		return strings.Join(texts, ","), nil
	default:
		return "", fmt.Errorf("expected a single value or a list")
	}
}
