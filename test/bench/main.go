package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/bench/upstream"
)

// subject is a cluster of one control plane and two workers that can be
// created and deleted again and again.
type subject interface {
	Name() string
	// Prepare does what a user has done once: images, programs.
	Prepare(ctx context.Context) error
	// Create starts the cluster and returns at once when its API can be
	// asked for; what is not up yet is waited for by the measurement.
	Create(ctx context.Context) (*rest.Config, error)
	Delete(ctx context.Context) error
	// Processes are all that belong to the cluster.
	Processes() ([]int, error)
	// CPU is the processor time used since Create, of the dead as well.
	CPU() (time.Duration, error)
}

// sample is one run: seconds, megabytes or percent, by the name of the figure.
type sample map[string]float64

func main() {
	n := flag.Int("n", 5, "runs of each subject")
	out := flag.String("out", "_output/bench", "directory for results")
	names := flag.String("subjects", "skiff,tuned,shipped", "what to measure")
	idle := flag.Duration("idle", 30*time.Second, "how long a cluster idles before memory and processor are read")
	burst := flag.Int("burst", 100, "Pods in the burst")
	kills := flag.Int("kills", 20, "how often etcd's leader and the scheduler of a replicated control plane are killed in a run")
	replicated := flag.String("replicas", strings.Join(replicaParts, ","), "figures of replicated control planes to take; empty leaves them out")
	part := flag.String("only", "", "take one part of the figures only: "+strings.Join(parts, ", "))
	var grow sizes
	flag.Var(&grow, "sizes", "nodes of the clusters that show what a further node takes; empty leaves it out (default 1,3,10)")
	_ = grow.Set("1,3,10")
	flag.Parse()
	replicating, err := readParts(*replicated)
	if err == nil && *part != "" && !slices.Contains(parts, *part) {
		err = fmt.Errorf("-only: %q: want one of %s", *part, strings.Join(parts, ", "))
	}
	if err == nil && (*n < 1 || *kills < 1) {
		err = errors.New("-n, -kills: want at least 1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *n, *out, strings.Split(*names, ","), options{idle: *idle, burst: *burst, kills: *kills, parts: replicating, only: *part, sizes: grow}); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

type options struct {
	idle  time.Duration
	burst int
	kills int
	parts []string
	// only is the one part to take; empty: all.
	only  string
	sizes sizes
}

// Parts of the figures, each with clusters of its own.
const (
	partCluster  = "cluster"
	partNode     = "node"
	partImages   = "images"
	partGrowth   = "growth"
	partReplicas = "replicas"
)

var parts = []string{partCluster, partNode, partImages, partGrowth, partReplicas}

func (o options) has(part string) bool { return o.only == "" || o.only == part }

func run(ctx context.Context, n int, out string, names []string, opts options) error {
	subjects, err := choose(names, out)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if err := s.Prepare(ctx); err != nil {
			return fmt.Errorf("prepare %s: %w", s.Name(), err)
		}
	}
	results := map[string][]sample{}
	for i := range n {
		for _, s := range subjects {
			fmt.Fprintf(os.Stderr, "run %d/%d %s\n", i+1, n, s.Name())
			got, err := take(ctx, s, opts)
			if err != nil {
				return fmt.Errorf("run %d of %s, %w", i+1, s.Name(), err)
			}
			results[s.Name()] = append(results[s.Name()], got)
			// What was measured stays if the next one fails.
			if err := write(out, results, markdown(subjects, results, opts.sizes)); err != nil {
				return err
			}
		}
	}
	fmt.Print(markdown(subjects, results, opts.sizes))
	return nil
}

// take takes all figures of a subject once.
func take(ctx context.Context, s subject, opts options) (sample, error) {
	got := sample{}
	measures := map[string]func() error{
		partCluster: func() (err error) { got, err = measure(ctx, s, opts); return err },
		partNode:    func() error { return nodes(ctx, s, got) },
	}
	if l, ok := s.(loader); ok {
		measures[partImages] = func() error { return loads(ctx, l, got) }
	}
	if g, ok := s.(grower); ok {
		measures[partGrowth] = func() error { return growth(ctx, g, opts, got) }
	}
	if r, ok := s.(*skiffCluster); ok {
		measures[partReplicas] = func() error { return replicas(ctx, r, opts, got) }
	}
	for _, part := range parts {
		if measure := measures[part]; measure != nil && opts.has(part) {
			if err := measure(); err != nil {
				return got, fmt.Errorf("%s: %w", part, err)
			}
		}
	}
	return got, nil
}

// write puts the results into files, for programs and for people.
func write(out string, results map[string][]sample, report string) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(out, "results.json"), data, 0o644),
		os.WriteFile(filepath.Join(out, "results.md"), []byte(report), 0o644))
}

func choose(names []string, out string) ([]subject, error) {
	var chosen []subject
	dir, err := filepath.Abs(out)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		switch name {
		case "skiff":
			chosen = append(chosen, &skiffCluster{kubeconfig: filepath.Join(dir, "skiff.kubeconfig")})
		case "tuned", "shipped":
			chosen = append(chosen, &assembled{name: name, cluster: upstream.New(upstream.Config{
				Dir: filepath.Join(dir, "upstream"), Programs: filepath.Join(dir, "../upstream"), Archive: "_output/images.tar",
				Script: "test/bench/upstream/node.sh", AsShipped: name == "shipped",
			})})
		default:
			return nil, fmt.Errorf("-subjects: %q: want skiff, tuned or shipped", name)
		}
	}
	return chosen, nil
}

// figure is one line of the report.
type figure struct{ key, title string }

// figures are what is measured of every subject, in the order of the report.
var figures = []figure{
	{"api", "create → API answers, s"},
	{"ready", "create → 3 nodes Ready, s"},
	{"firstPod", "create → first Pod Running, s"},
	{"byName", "create → Service answers by name, s"},
	{"cpuReady", "CPU until then, s"},
	{"pss", "PSS after idling, MB"},
	{"idleCPU", "CPU while idling, % of a core"},
	{"pod", "Pod create → Running, ms"},
	{"podVolumes", "the same with ConfigMap, Secret and token, ms"},
	{"gone", "Pod delete → gone, ms"},
	{"burst", "100 Pods at once → all Running, s"},
	{"delete", "delete the cluster, s"},
}

func markdown(subjects []subject, results map[string][]sample, grown sizes) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Median (minimum–maximum), n = %d, subjects in turn. ", len(results[subjects[0].Name()]))
	fmt.Fprintf(&b, "%s, kernel %s.\n\n| |", machine(), kernel())
	for _, s := range subjects {
		fmt.Fprintf(&b, " %s |", s.Name())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(subjects)) + "\n")
	for _, f := range slices.Concat(figures, nodeFigures, imageFigures(), grown.figures(), replicaFigures) {
		line, taken := fmt.Sprintf("| %s |", f.title), false
		for _, s := range subjects {
			var values []float64
			for _, r := range results[s.Name()] {
				if v, ok := r[f.key]; ok {
					values = append(values, v)
				}
			}
			if len(values) == 0 {
				line += " – |"
				continue
			}
			taken = true
			slices.Sort(values)
			line += fmt.Sprintf(" %.3g (%.3g–%.3g) |", values[len(values)/2], values[0], values[len(values)-1])
		}
		if !taken {
			continue // it was not asked for
		}
		b.WriteString(line)
		b.WriteString("\n")
	}
	return b.String()
}
