package compose

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	clusterv1alpha1 "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server"
	"github.com/skiff-k8s/skiff/apis/storage"
	"github.com/skiff-k8s/skiff/controllers/scheduling"
)

var started = time.Now()

type flags struct {
	dir         string
	listen      string
	also        string
	scheduler   bool
	durable     bool
	stdin       bool
	unseeded    bool
	compaction  time.Duration
	etcdServers string
	etcdCA      string
	etcdCert    string
	etcdKey     string
	auditPolicy string
	nodeIP      string
	serviceCIDR string
	verbosity   int
	gates       boolMap
	runtime     stringMap
}

// Beside is what a command runs beside the API server, until ctx ends.
type Beside func(ctx context.Context, api *server.Server, cp machinev1alpha1.ControlPlaneConfiguration, pkiDir string) error

// Main is the main function of a command.
func Main(beside ...Beside) {
	var f flags
	flag.StringVar(&f.dir, "dir", "", "directory of the cluster; required, short (etcd's socket is in it)")
	flag.StringVar(&f.listen, "listen", "127.0.0.1:0", "loopback address of the API server")
	flag.StringVar(&f.also, "also-listen", "", "second address of the same API server")
	flag.BoolVar(&f.scheduler, "scheduler", false, "run the scheduler too")
	flag.BoolVar(&f.durable, "durable", false, "fsync every write")
	flag.BoolVar(&f.stdin, "stop-on-stdin", false, "stop when standard input ends")
	flag.BoolVar(&f.unseeded, "unseeded", false, "make every bootstrap object through the API")
	flag.DurationVar(&f.compaction, "compaction-interval", 0, "etcd compaction interval; 0 is 5m")
	flag.StringVar(&f.etcdServers, "etcd-servers", "", "URLs of an existing etcd, comma separated")
	flag.StringVar(&f.etcdCA, "etcd-cafile", "", "PEM file")
	flag.StringVar(&f.etcdCert, "etcd-certfile", "", "PEM file")
	flag.StringVar(&f.etcdKey, "etcd-keyfile", "", "PEM file")
	flag.StringVar(&f.auditPolicy, "audit-policy-file", "", "audit.k8s.io/v1 Policy; the log is audit.log in -dir")
	flag.StringVar(&f.nodeIP, "node-ip", "192.0.2.10", "address in the endpoints of default/kubernetes; must not be loopback, nobody dials it")
	flag.StringVar(&f.serviceCIDR, "service-cidr", "10.96.0.0/16", "service range, or two, comma separated; nothing routes them")
	flag.IntVar(&f.verbosity, "v", 0, "klog verbosity")
	flag.Var(&f.gates, "feature-gates", "Name=true,Other=false")
	flag.Var(&f.runtime, "runtime-config", "api/alpha=true,group/version=false")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if f.stdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // its end is what matters
			stop()
		}()
	}
	if err := run(ctx, f, beside); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags, beside []Beside) error {
	if f.dir == "" {
		return errors.New("-dir is required")
	}
	release := server.HoldGC()
	if err := logging(f.verbosity); err != nil {
		return err
	}

	var listeners []net.Listener
	for _, address := range []string{f.listen, f.also} {
		if address == "" {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	address := listeners[0].Addr().(*net.TCPAddr)

	store, err := storage.New(storage.Config{
		DataDir:            filepath.Join(f.dir, "etcd"),
		Socket:             filepath.Join(f.dir, "etcd.sock"),
		Durable:            f.durable,
		Servers:            split(f.etcdServers),
		CAFile:             f.etcdCA,
		CertFile:           f.etcdCert,
		KeyFile:            f.etcdKey,
		CompactionInterval: f.compaction,
	})
	if err != nil {
		return err
	}
	stopped := ctx.Err
	group, ctx := errgroup.WithContext(ctx)
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	group.Go(func() error { return store.Run(storeCtx) })

	pki := filepath.Join(f.dir, "pki")
	node, err := netip.ParseAddr(f.nodeIP)
	if err != nil {
		return fmt.Errorf("-node-ip: %w", err)
	}
	services, err := clusterv1alpha1.ParseSubnets(f.serviceCIDR)
	if err != nil {
		return fmt.Errorf("-service-cidr: %w", err)
	}
	kubeconfig, err := certificates(pki, address, node, services)
	if err != nil {
		return err
	}
	composed := time.Now()
	cp := machinev1alpha1.ControlPlaneConfiguration{
		ClusterName:     "test",
		NodeName:        nodeName,
		NodeIPs:         []netip.Addr{node},
		PodSubnets:      []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceSubnets:  services,
		DNSDomain:       dnsDomain,
		FeatureGates:    f.gates,
		RuntimeConfig:   f.runtime,
		AuditPolicyFile: f.auditPolicy,
		Verbosity:       f.verbosity,
	}
	if f.auditPolicy != "" {
		cp.AuditLogFile = filepath.Join(f.dir, "audit.log")
	}
	srv, err := server.New(ctx, server.Config{
		ControlPlane: cp,
		Listeners:    listeners,
		Storage:      store,
		PKIDir:       pki,
		RunDir:       filepath.Join(f.dir, "run"),
		Unseeded:     f.unseeded,
	})
	if err != nil {
		stopStore()
		err = errors.Join(err, group.Wait())
		if stopped() != nil {
			return nil // while it started
		}
		return err
	}
	group.Go(func() error {
		defer stopStore()
		return srv.Run(ctx)
	})
	if f.scheduler {
		group.Go(func() error {
			return scheduling.Run(ctx, scheduling.Config{Client: srv.LoopbackClientConfig()})
		})
	}
	for _, b := range beside {
		group.Go(func() error { return b(ctx, srv, cp, pki) })
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-srv.Ready():
		}
		now := time.Now()
		fmt.Println(kubeconfig)
		fmt.Fprintf(os.Stderr, "ready %.3fs after start, of it certificates %.3fs; cpu %.3fs\n",
			now.Sub(started).Seconds(), composed.Sub(started).Seconds(), cpu().Seconds())
		release()
		return nil
	})
	return group.Wait()
}

func logging(verbosity int) error {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	if verbosity > 0 {
		return fs.Set("v", fmt.Sprint(verbosity))
	}
	// Upstream's own start-up chatter is Info; a test wants what is wrong.
	klog.SetOutput(io.Discard)
	return errors.Join(fs.Set("stderrthreshold", "ERROR"), fs.Set("logtostderr", "false"), fs.Set("alsologtostderr", "false"))
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
