package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/test/bench/dataplane/arena"
	"github.com/skiff-k8s/skiff/test/bench/dataplane/world"
)

// options say how much is measured.
type options struct {
	out, programs string
	sizes         []int
	rounds        int
	// changes are the API writes that are followed to every node: many for
	// skiff, fewer for kube-proxy, which takes a second or two each.
	changes, slowChanges int
}

func main() {
	var o options
	short := flag.Bool("short", false, "a smoke test: small and quick, its figures mean nothing")
	flag.Func("services", "`numbers` of Services, growing, with commas between (default 1,1000,10000)", o.setSizes)
	flag.StringVar(&o.out, "out", "_output/bench", "directory for results")
	flag.StringVar(&o.programs, "programs", "_output/bench/bin", "directory with agent, apiserver, kube-proxy and loadgen")
	flag.Parse()
	sizes := []int{1, 1000, 10000}
	o.rounds, o.changes, o.slowChanges = 30, 200, 5
	if *short {
		sizes, o.rounds, o.changes, o.slowChanges = []int{1, 200}, 3, 5, 1
	}
	if o.sizes == nil {
		o.sizes = sizes
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func (o *options) setSizes(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || len(o.sizes) > 0 && n <= o.sizes[len(o.sizes)-1] {
			return fmt.Errorf("%q is no number above those before it", word)
		}
		o.sizes = append(o.sizes, n)
	}
	return nil
}

func run(ctx context.Context, o options) (err error) {
	if runtime.NumCPU() < 2 {
		return errors.New("streams need a core for each end: this machine has one")
	}
	dir, err := arena.Enclose(ctx)
	if dir == "" {
		return err // the run was inside, and is over
	}
	if o.programs, err = filepath.Abs(o.programs); err != nil {
		return err
	}
	a, err := arena.New(filepath.Join(o.programs, "loadgen"))
	if err != nil {
		return err
	}
	w, err := world.Start(ctx, filepath.Join(o.programs, "apiserver"), dir, arena.API)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	all, err := subjects(w, dir, o)
	if err != nil {
		return err
	}
	results := newResults()
	for _, size := range o.sizes {
		begin := time.Now()
		got, err := stage(ctx, &theatre{world: w, arena: a}, all, size, o)
		if err != nil {
			return fmt.Errorf("%d services: %w", size, err)
		}
		results.Sizes = append(results.Sizes, got)
		if err := results.write(o.out); err != nil {
			return err
		}
		progress("%d services done after %v", size, time.Since(begin).Round(time.Second))
	}
	fmt.Print(markdown(results))
	return nil
}

// progress says on standard error what the run is at.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
