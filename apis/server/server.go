package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/apis/server/loopback"
	"github.com/skiff-k8s/skiff/apis/storage"
)

// Config of a Server.
type Config struct {
	ControlPlane machinev1alpha1.ControlPlaneConfiguration
	// Listeners are TCP listeners that serve the same API. The Service
	// default/kubernetes leads to NodeIP and the port of the first. Nothing
	// is accepted before Run, and Run closes them all.
	Listeners []net.Listener
	// Storage must be running, or about to.
	Storage *storage.Storage

	// PKIDir holds the files that the machine API names. Default:
	// machinev1alpha1.PKIDir.
	PKIDir string
	// RunDir is where the server puts files of its own; it need not exist.
	// Default: apiserver in machinev1alpha1.RunDir.
	RunDir string
	// Unseeded makes every bootstrap object through the API. By default an
	// empty etcd gets the recorded ones at once, unless the configuration has
	// to do with them: feature gates, runtime config, audit.
	Unseeded bool
}

func (c Config) seeded() bool {
	cp := c.ControlPlane
	return !c.Unseeded && c.Storage.Embedded() && len(cp.FeatureGates) == 0 && len(cp.RuntimeConfig) == 0 && cp.AuditPolicyFile == ""
}

// Server is one API server.
type Server struct {
	chain    *chain
	loopback *loopback.Transport
	// end releases what New started.
	end context.CancelFunc
	// bootstrapped is closed when our own hooks are done.
	bootstrapped <-chan struct{}
	ready        chan struct{}
}

// New composes the server. It waits for the storage to answer and reads the
// certificates; it serves nothing yet.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if len(cfg.Listeners) == 0 {
		return nil, errors.New("compose API server: no listener")
	}
	if cfg.Storage == nil {
		return nil, errors.New("compose API server: no storage")
	}
	if cfg.PKIDir == "" {
		cfg.PKIDir = machinev1alpha1.PKIDir
	}
	if cfg.RunDir == "" {
		cfg.RunDir = machinev1alpha1.RunDir + "/apiserver"
	}
	// The server's clients of itself need no warnings about what it does.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	opts, err := serverOptions(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("configure API server: %w", err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	lb, shared := loopback.New(), cfg.Storage.Share()
	c, err := newChain(opts, lb, shared, func() error {
		client, err := cfg.Storage.Client(ctx)
		if err != nil {
			return err
		}
		if cfg.seeded() {
			if err := writeSeed(ctx, client.KV, opts); err != nil {
				return err
			}
		}
		return shared.Start(ctx, life)
	})
	if err != nil {
		end()
		return nil, fmt.Errorf("compose API server: %w", err)
	}
	bootstrapped, err := addHooks(c, opts)
	if err != nil {
		end()
		return nil, fmt.Errorf("compose API server: %w", err)
	}
	return &Server{chain: c, loopback: lb, end: end, bootstrapped: bootstrapped, ready: make(chan struct{})}, nil
}

// streamGrace is how long a shutdown waits for streams without end, as of logs
// that are followed; upstream waits a minute. Requests with an end are waited
// for until they are through.
const streamGrace = time.Second

// syncGrace is how long the hooks are held back for the informers. Those of a
// group that runtimeConfig switches off never sync.
const syncGrace = time.Second

// startGrace is how long a stop waits for a start in progress: upstream's
// hooks take a start that is cut short for one that failed, and kill the
// process.
const startGrace = 5 * time.Second

// Run serves until ctx ends and then shuts down gracefully: /readyz fails,
// requests in flight are answered, watches end, listeners close.
func (s *Server) Run(ctx context.Context) error {
	defer s.end()
	defer s.loopback.Close()
	defer s.chain.end()
	aggregator := s.chain.aggregator
	s.loopback.Open(aggregator.GenericAPIServer.Handler)
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		s.chain.start()
	}()
	aggregator.GenericAPIServer.ShutdownTimeout = streamGrace
	prepared, err := aggregator.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare API server: %w", err)
	}
	// It is only to be early: a hook that needs an informer waits for it.
	select {
	case <-synced:
	case <-ctx.Done():
	case <-time.After(syncGrace):
	}

	group, alive := errgroup.WithContext(context.WithoutCancel(ctx))
	serve, stop := context.WithCancel(alive)
	defer stop()
	group.Go(func() error {
		if err := prepared.Run(serve); err != nil {
			return fmt.Errorf("run API server: %w", err)
		}
		return nil
	})
	group.Go(func() error { return s.watchReady(serve) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
		case <-alive.Done():
		}
		select {
		case <-s.ready:
		case <-alive.Done():
		case <-time.After(startGrace):
		}
		return nil
	})
	return group.Wait()
}

// LoopbackClientConfig is a client of this server with all privileges and
// without limits, over function calls. Requests wait until Run serves. Every
// call returns a new copy; set its UserAgent.
func (s *Server) LoopbackClientConfig() *rest.Config {
	config := rest.CopyConfig(s.chain.aggregator.GenericAPIServer.LoopbackClientConfig)
	config.UserAgent = ""
	return config
}

// Ready is closed when /readyz has passed for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// RemoveEndpoint takes another API server, which does not answer, out of the
// Service default/kubernetes. Upstream's lease would do so after 15 s; the
// server itself brings it back. That it is out already is fine.
func (s *Server) RemoveEndpoint(address netip.Addr) {
	port := corev1.EndpointPort{Name: "https", Protocol: corev1.ProtocolTCP, Port: machinev1alpha1.APIServerPort}
	if err := s.chain.endpoints.RemoveEndpoints("kubernetes", net.IP(address.AsSlice()), []corev1.EndpointPort{port}); err != nil {
		klog.V(2).InfoS("Endpoint of an API server not removed", "address", address, "err", err)
	}
}

// watchReady asks /readyz until it passes: it is the sum of some sixty checks
// and hooks, and there is no event for that. Our own hooks take longest.
func (s *Server) watchReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.LoopbackClientConfig())
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	select {
	case <-s.bootstrapped:
	case <-ctx.Done():
		return nil
	}
	err = wait.PollUntilContextCancel(ctx, 5*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil, nil
	})
	if err == nil {
		close(s.ready)
	}
	return nil
}
