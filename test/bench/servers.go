package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// servers is what scale, tail and soak measure: coffer, and etcd beside it.
type servers struct {
	o      options
	coffer string
	etcd   string
	work   string
	port   int
	flags  *flag.FlagSet
	kek    []string
}

func newServers(command string) *servers {
	s := &servers{flags: flag.NewFlagSet(command, flag.ExitOnError)}
	s.o = options{members: 1, rounds: 1, clients: 256, conns: 16}
	s.flags.StringVar(&s.coffer, "coffer", "", "coffer binary (required)")
	s.flags.StringVar(&s.etcd, "etcd", "", "etcd binary (default: built from the module in go.mod), or none to leave it out")
	s.flags.StringVar(&s.work, "work", "", "folder for data directories (default: a temporary one)")
	s.flags.IntVar(&s.port, "port", 26000, "etcd's client port; coffer's is 1000 above it")
	s.flags.BoolVar(&s.o.tls, "tls", false, "mutual TLS")
	s.flags.DurationVar(&s.o.duration, "d", 10*time.Second, "duration of one measurement")
	s.flags.IntVar(&s.o.keys, "keys", 100_000, "number of keys")
	s.flags.IntVar(&s.o.value, "value", 1024, "bytes a value")
	return s
}

// parse reads the command line and prepares the folder, which the caller removes with the function returned.
func (s *servers) parse(ctx context.Context, args []string) (func(), error) {
	if err := s.flags.Parse(args); err != nil {
		return nil, err
	}
	if s.coffer == "" {
		return nil, fmt.Errorf("-coffer is required")
	}
	clean := func() {}
	if s.work == "" {
		dir, err := os.MkdirTemp("", "bench-")
		if err != nil {
			return nil, err
		}
		s.work, clean = dir, func() { os.RemoveAll(dir) }
	}
	var err error
	if s.kek, err = makeKEK(s.work); err == nil && s.etcd == "" {
		s.etcd, err = buildEtcd(ctx, s.work)
	}
	return clean, err
}

// names returns the servers to be measured.
func (s *servers) names() []string {
	if s.etcd == "none" {
		return []string{"coffer"}
	}
	return []string{"etcd", "coffer"}
}

func (s *servers) start(ctx context.Context, name string) (*cluster, error) {
	dir := filepath.Join(s.work, name+"-data")
	if name == "etcd" {
		return startCluster(ctx, name, s.etcd, nil, nil, dir, s.port, s.o)
	}
	return startCluster(ctx, name, s.coffer, []string{"serve"}, s.kek, dir, s.port+1000, s.o)
}

// memoryMiB is what the members hold in memory now.
func (c *cluster) memoryMiB() float64 {
	var kib float64
	for _, p := range c.procs {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				var v float64
				fmt.Sscan(rest, &v)
				kib += v
			}
		}
	}
	return kib / 1024
}

// files is how many descriptors the members have open.
func (c *cluster) files() float64 {
	n := 0
	for _, p := range c.procs {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
		n += len(entries)
	}
	return float64(n)
}

func (c *cluster) kv(i int) pb.KVClient { return pb.NewKVClient(c.conns[i%len(c.conns)]) }

// table prints figures by name, a column for each server.
type table struct {
	names   []string
	figures []string
	values  map[string]map[string]float64
}

func newTable(names []string) *table {
	return &table{names: names, values: map[string]map[string]float64{}}
}

func (t *table) set(figure, name string, v float64) {
	if t.values[figure] == nil {
		t.values[figure] = map[string]float64{}
		t.figures = append(t.figures, figure)
	}
	t.values[figure][name] = v
}

func (t *table) print() {
	fmt.Printf("\n%-44s", "figure")
	for _, n := range t.names {
		fmt.Printf(" %12s", n)
	}
	ratio := slices.Contains(t.names, "etcd")
	if ratio {
		fmt.Printf(" %14s", "coffer/etcd")
	}
	fmt.Println()
	for _, f := range t.figures {
		fmt.Printf("%-44s", f)
		for _, n := range t.names {
			fmt.Printf(" %12.2f", t.values[f][n])
		}
		if ratio {
			fmt.Printf(" %14.2f", t.values[f]["coffer"]/t.values[f]["etcd"])
		}
		fmt.Println()
	}
}
