package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/dataplane/lb"
)

func main() {
	var f flags
	flag.StringVar(&f.node, "node", "", "the node's name")
	flag.StringVar(&f.ip, "ip", "", "the node's address")
	flag.StringVar(&f.kubeconfig, "kubeconfig", "", "file")
	flag.StringVar(&f.cgroup, "cgroup", "", "cgroup2 directory whose sockets are translated")
	flag.StringVar(&f.pins, "pins", "", "directory of a bpf file system")
	flag.StringVar(&f.observe, "observe", "", "ADDRESS of the Service whose map entry is watched")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

type flags struct{ node, ip, kubeconfig, cgroup, pins, observe string }

// report is a line of the output.
type report struct {
	// Fill is the time from the last list's last byte to full maps.
	Fill time.Duration `json:"fill,omitempty"`
	// Change is the time from a watch event's bytes to the changed map.
	Change time.Duration `json:"change,omitempty"`
}

func run(ctx context.Context, f flags) (err error) {
	seen := newArrivals()
	loader, err := newLoader(f, seen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loader.Close()) }()
	told := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); err = errors.Join(err, <-told) }()
	go func() { told <- tell(ctx, f, loader, seen) }()
	return loader.Run(ctx)
}

// tell prints the reports.
func tell(ctx context.Context, f flags, loader *lb.Loader, seen *arrivals) error {
	select {
	case <-ctx.Done():
		return nil
	case <-loader.Synced():
	}
	out := json.NewEncoder(os.Stdout)
	filled := report{Fill: time.Since(seen.lastList())}
	if f.observe == "" {
		return out.Encode(filled)
	}
	// Whoever reads that the maps are full may change them.
	o, err := newObserver(f)
	if err != nil {
		return err
	}
	if err := out.Encode(filled); err != nil {
		return errors.Join(err, o.services.Close())
	}
	return o.run(ctx, seen, out)
}

// newLoader is the one place that knows the loader's configuration.
func newLoader(f flags, seen *arrivals) (*lb.Loader, error) {
	ip, err := netip.ParseAddr(f.ip)
	if err != nil {
		return nil, fmt.Errorf("-ip: %w", err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("-kubeconfig: %w", err)
	}
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	cfg.Wrap(seen.wrap)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return lb.New(lb.Config{NodeName: f.node, NodeIPs: []netip.Addr{ip}, CgroupPath: f.cgroup, PinDir: f.pins, Client: client})
}
