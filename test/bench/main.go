// Command bench is the project's yardstick: it runs coffer and a peer (etcd)
// side by side on this machine, drives both with the same load generator in
// alternating rounds, and prints the ratio of the medians.
//
// An absolute figure from a shared machine means little; the ratio of two
// servers measured in one run means a lot. Each figure is therefore printed
// for both servers, followed by coffer/etcd.
//
//	go run . -coffer ../../bin/coffer            # one member each, no TLS
//	go run . -coffer ../../bin/coffer -tls       # mutual TLS on both
//	go run . -coffer ../../bin/coffer -members 3 # three members each
//	go run . -coffer ../../bin/coffer -only put,get-lin -json out.json
//
// Other commands look at what the yardstick does not show: how cost grows with
// the number of keys, the slowest requests at a fixed load, and whether
// anything grows in an hour.
//
//	go run . scale -coffer ../../bin/coffer -keys 1000000
//	go run . tail  -coffer ../../bin/coffer
//	go run . soak  -coffer ../../bin/coffer -d 1h
//
// Both servers are started with the same etcd flags, so coffer must accept
// them: `coffer serve --name m0 --data-dir D --listen-client-urls URL ...`.
// Coffer finds its key-encryption key by ETCD_KEK=file:PATH: 32 random bytes,
// mode 0600, made beside (not in) the data directories.
// The peer is built from the Go module go.etcd.io/etcd/server/v3 that go.mod
// names, unless -etcd names a binary.
//
// A third server, "floor", answers every put and single get at once, with
// nothing behind it: what gRPC and the load generator cost on their own. The
// rows "excess" are a server's CPU per operation above that floor: the part
// that a store can do something about.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options are the knobs of one run.
type options struct {
	members  int
	tls      bool
	rounds   int
	duration time.Duration // of one workload in one round
	clients  int           // concurrent requests of the loaded workloads
	conns    int           // connections they share
	keys     int           // keys loaded before the workloads
	value    int           // bytes a value
}

// quota is the size, in bytes, that a store may reach: the most that etcd
// advises, unless more than that is to be loaded.
func (o options) quota() int64 { return max(8<<30, 4*int64(o.keys)*int64(o.value)) }

func main() {
	log.SetFlags(0)
	commands := map[string]func([]string) error{"floor": serveFloor, "scale": scale, "tail": tail, "soak": soak}
	if len(os.Args) > 1 {
		if command := commands[os.Args[1]]; command != nil {
			if err := command(os.Args[2:]); err != nil {
				log.Fatalf("bench: %v", err)
			}
			return
		}
	}
	var o options
	cofferBin := flag.String("coffer", "", "coffer binary (required)")
	cofferArgs := flag.String("coffer-args", "serve", "arguments ahead of the etcd flags, space-separated")
	etcdBin := flag.String("etcd", "", "etcd binary (default: built from the module in go.mod)")
	etcdArgs := flag.String("etcd-args", "", "further flags for etcd, such as --listen-client-http-urls=https://127.0.0.1:23900 (gRPC gets a port of its own)")
	only := flag.String("only", "", "comma-separated workloads (default: all)")
	jsonOut := flag.String("json", "", "also write the figures to this file")
	work := flag.String("work", "", "folder for data directories (default: a temporary one)")
	flag.IntVar(&o.members, "members", 1, "members of each cluster")
	flag.BoolVar(&o.tls, "tls", false, "mutual TLS between clients and members, and between members")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median of them is reported")
	flag.DurationVar(&o.duration, "d", 4*time.Second, "duration of one workload in one round")
	flag.IntVar(&o.clients, "clients", 256, "concurrent requests of the loaded workloads")
	flag.IntVar(&o.conns, "conns", 16, "connections that they share")
	flag.IntVar(&o.keys, "keys", 100_000, "keys loaded before the workloads")
	flag.IntVar(&o.value, "value", 1024, "bytes a value")
	flag.Parse()
	if *cofferBin == "" {
		log.Fatal("bench: -coffer is required")
	}
	dir := *work
	if dir == "" {
		d, err := os.MkdirTemp("", "bench-")
		if err != nil {
			log.Fatal(err)
		}
		defer os.RemoveAll(d)
		dir = d
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, dir, *etcdBin, strings.Fields(*etcdArgs), *cofferBin, strings.Fields(*cofferArgs), *only, *jsonOut); err != nil {
		log.Fatalf("bench: %v", err)
	}
}

func run(ctx context.Context, o options, dir, etcdBin string, etcdArgs []string, cofferBin string, cofferArgs []string, only, jsonOut string) error {
	if etcdBin == "" {
		var err error
		if etcdBin, err = buildEtcd(ctx, dir); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	kekEnv, err := makeKEK(dir)
	if err != nil {
		return err
	}
	single := o
	single.members = 1
	floor, err := startCluster(ctx, "floor", self, []string{"floor"}, []string{fmt.Sprintf("BENCH_VALUE=%d", o.value)}, filepath.Join(dir, "floor-data"), 25000, single)
	if err != nil {
		return err
	}
	defer floor.stop()
	etcd, err := startCluster(ctx, "etcd", etcdBin, etcdArgs, nil, filepath.Join(dir, "etcd-data"), 23000, o)
	if err != nil {
		return err
	}
	defer etcd.stop()
	coffer, err := startCluster(ctx, "coffer", cofferBin, cofferArgs, kekEnv, filepath.Join(dir, "coffer-data"), 24000, o)
	if err != nil {
		return err
	}
	defer coffer.stop()
	targets := []*cluster{etcd, coffer}

	figures := map[string]map[string][]float64{} // figure -> target -> one value a round
	record := func(figure, target string, v float64) {
		if figures[figure] == nil {
			figures[figure] = map[string][]float64{}
		}
		figures[figure][target] = append(figures[figure][target], v)
	}

	for _, t := range targets {
		log.Printf("loading %d keys of %d bytes into %s ...", o.keys, o.value, t.name)
		start := time.Now()
		if err := load(ctx, t, o); err != nil {
			return fmt.Errorf("load %s: %w", t.name, err)
		}
		record("load keys/s", t.name, float64(o.keys)/time.Since(start).Seconds())
	}
	time.Sleep(5 * time.Second) // let flushes and background commits end
	for _, t := range targets {
		record("disk after load MiB", t.name, t.diskMiB())
	}
	for round := range o.rounds {
		for _, w := range workloads {
			if only != "" && !slices.Contains(strings.Split(only, ","), w.name) {
				continue
			}
			order := slices.Clone(targets)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			if w.floor {
				order = append(order, floor)
			}
			for _, t := range order {
				cpu0 := t.cpu()
				res, err := w.run(ctx, t, o)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", w.name, t.name, err)
				}
				used := t.cpu() - cpu0
				record(w.name+" "+w.unit, t.name, res.rate())
				if w.latency {
					record(w.name+" p50 ms", t.name, res.quantile(0.50))
					record(w.name+" p99 ms", t.name, res.quantile(0.99))
				}
				record(w.name+" server-cpu us/op", t.name, used.Seconds()*1e6/float64(res.count))
				log.Printf("round %d  %-10s %-7s %10.0f %s  (%d errors)", round+1, w.name, t.name, res.rate(), w.unit, res.errors)
			}
		}
	}
	for _, t := range targets {
		record("memory peak MiB", t.name, t.peakRSS())
		if only == "" || strings.Contains(only, "recover") {
			s, err := t.crashAndRecover(ctx)
			if err != nil {
				return fmt.Errorf("recover %s: %w", t.name, err)
			}
			record("recover after kill -9 s", t.name, s)
		}
	}
	for _, w := range workloads {
		cpu := figures[w.name+" server-cpu us/op"]
		if !w.floor || cpu == nil {
			continue
		}
		for _, t := range targets {
			record(w.name+" excess cpu us/op", t.name, median(cpu[t.name])-median(cpu["floor"]))
		}
	}
	return report(figures, jsonOut)
}

// buildEtcd builds the peer from the module that go.mod names.
func buildEtcd(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "etcd")
	log.Print("building the peer, etcd, from its Go module ...")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "go.etcd.io/etcd/server/v3").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %v\n%s", err, out)
	}
	return bin, nil
}

// makeKEK makes coffer's key-encryption key and returns the environment that
// names it.
func makeKEK(dir string) ([]string, error) {
	kek := make([]byte, 32)
	rand.Read(kek)
	file := filepath.Join(dir, "kek")
	return []string{"ETCD_KEK=file:" + file}, os.WriteFile(file, kek, 0o600)
}

// report prints the medians of every figure with the ratio coffer/etcd.
func report(figures map[string]map[string][]float64, jsonOut string) error {
	type row struct {
		Figure string  `json:"figure"`
		Etcd   float64 `json:"etcd"`
		Coffer float64 `json:"coffer"`
		Floor  float64 `json:"floor,omitempty"`
		Ratio  float64 `json:"ratio"` // coffer / etcd
	}
	var rows []row
	for name, by := range figures {
		r := row{Figure: name, Etcd: median(by["etcd"]), Coffer: median(by["coffer"]), Floor: median(by["floor"])}
		if r.Etcd != 0 {
			r.Ratio = r.Coffer / r.Etcd
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.Figure, b.Figure) })
	fmt.Printf("\n%-30s %12s %12s %12s %14s\n", "figure (median of rounds)", "floor", "etcd", "coffer", "coffer/etcd")
	for _, r := range rows {
		floor := "-"
		if r.Floor != 0 {
			floor = fmt.Sprintf("%.2f", r.Floor)
		}
		fmt.Printf("%-30s %12s %12.2f %12.2f %14.2f\n", r.Figure, floor, r.Etcd, r.Coffer, r.Ratio)
	}
	if jsonOut == "" {
		return nil
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonOut, append(b, '\n'), 0o644)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
