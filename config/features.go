package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Features is the set of feature gates that were switched on or off. The zero Features has every gate at its default.
type Features struct{ set map[string]bool }

type gate struct {
	beta    bool   // else alpha
	enabled bool   // by default
	effect  string // "" if the gate does something here
}

const (
	gateAllAlpha = "AllAlpha"
	gateAllBeta  = "AllBeta"
)

// gates are etcd's, so that a manifest that names one is understood.
var gates = map[string]gate{
	"CompactHashCheck":             {},
	"FastLeaseKeepAlive":           {beta: true, enabled: true, effect: "renewals never wait for the applied index"},
	"InitialCorruptCheck":          {},
	"LeaseCheckpoint":              {},
	"LeaseCheckpointPersist":       {effect: "checkpoints are always persistent"},
	"PriorityRequest":              {effect: "no request waits behind an overloaded queue"},
	"SetMemberLocalAddr":           {effect: "needs other members to talk to"},
	"StopGRPCServiceOnDefrag":      {effect: "there is no pause for defragmentation"},
	"TxnModeWriteWithSharedBuffer": {beta: true, enabled: true, effect: "tunes etcd's engine"},
}

// Enabled reports whether the gate is on. The name must be one that etcd knows.
func (f Features) Enabled(name string) bool {
	g, ok := gates[name]
	if !ok {
		panic("config: unknown feature gate " + name)
	}
	if on, ok := f.set[name]; ok {
		return on
	}
	if on, ok := f.set[gateAllAlpha]; ok && !g.beta {
		return on
	}
	if on, ok := f.set[gateAllBeta]; ok && g.beta {
		return on
	}
	return g.enabled
}

// Set adds settings of the form "Name=true,Other=false".
func (f *Features) Set(s string) error {
	set := map[string]bool{}
	maps.Copy(set, f.set)
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		name, text, ok := strings.Cut(pair, "=")
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		if !ok {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, text, err)
		}
		if _, known := gates[name]; !known && name != gateAllAlpha && name != gateAllBeta {
			return fmt.Errorf("unrecognized feature gate: %s", name)
		}
		set[name] = on
	}
	f.set = set
	return nil
}

// String returns what was set, in the form Set takes.
func (f *Features) String() string {
	if f == nil {
		return ""
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(f.set)) {
		pairs = append(pairs, fmt.Sprintf("%s=%t", name, f.set[name]))
	}
	return strings.Join(pairs, ",")
}

// withoutEffect returns the gates that were named and change nothing here, with the reason.
func (f Features) withoutEffect() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f.set)) {
		if g := gates[name]; g.effect != "" {
			out = append(out, name+": "+g.effect)
		}
	}
	return out
}

// Feature is one gate and whether it is on.
type Feature struct {
	Name, Stage string
	Enabled     bool
}

// All returns every gate, those that stand for many included.
func (f Features) All() []Feature {
	all := []Feature{{gateAllAlpha, "ALPHA", f.set[gateAllAlpha]}, {gateAllBeta, "BETA", f.set[gateAllBeta]}}
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		stage := "ALPHA"
		if gates[name].beta {
			stage = "BETA"
		}
		all = append(all, Feature{name, stage, f.Enabled(name)})
	}
	return all
}
