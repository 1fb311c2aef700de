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
)

// sample is one run: seconds, milliseconds, megabytes or percent, by the name
// of the figure.
type sample map[string]float64

func main() {
	programs := flag.String("programs", "", "directory of controlplane and kube-controller-manager")
	n := flag.Int("n", 5, "runs of each subject")
	out := flag.String("out", "_output/bench", "directory for results")
	names := flag.String("subjects", "none,skiff,raised,shipped", "what to measure; none is the API server alone, for memory")
	only := flag.String("figures", "", "keys of the figures to measure; empty is all, and so is memory always")
	idle := flag.Duration("idle", 20*time.Second, "how long controllers idle before memory and processor are read")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *programs, *n, *out, strings.Split(*names, ","), *only, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, programs string, n int, out string, names []string, only string, idle time.Duration) error {
	for _, name := range names {
		if titles[name] == "" {
			return fmt.Errorf("-subjects: %q: want none, skiff, raised or shipped", name)
		}
	}
	results := map[string][]sample{}
	for i := range n {
		for _, name := range names {
			fmt.Fprintf(os.Stderr, "run %d/%d %s\n", i+1, n, name)
			got, err := one(ctx, name, programs, only, idle)
			if err != nil {
				return fmt.Errorf("run %d of %s: %w", i+1, name, err)
			}
			results[name] = append(results[name], got)
		}
		// After each round: what was measured stays if the next one fails.
		if err := write(out, results, markdown(names, results)); err != nil {
			return err
		}
	}
	fmt.Print(markdown(names, results))
	return nil
}

// write puts the results into files, for programs and for people.
func write(out string, results map[string][]sample, report string) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(out, 0o755),
		os.WriteFile(filepath.Join(out, "controllers.json"), data, 0o644),
		os.WriteFile(filepath.Join(out, "controllers.md"), []byte(report), 0o644))
}

// one measures a subject once, on a cluster of its own.
func one(ctx context.Context, name, programs, only string, idle time.Duration) (got sample, err error) {
	s, err := start(name, programs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	m, err := newMeasurement(ctx, s)
	if err != nil {
		return nil, err
	}
	got = sample{}
	if name != "none" {
		if got["first"], err = m.begin(ctx); err != nil {
			return nil, fmt.Errorf("start: %w", err)
		}
	}
	if err := m.idle(ctx, idle, got); err != nil || name == "none" {
		return got, err
	}
	for _, f := range figures {
		if f.measure == nil || only != "" && !slices.Contains(strings.Split(only, ","), f.key) {
			continue
		}
		v, err := f.measure(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.title, err)
		}
		got[f.key] = v
	}
	return got, nil
}
