package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/dataplane/internal/warn"
)

// Config is what cluster DNS needs.
type Config struct {
	// Listen are the addresses on which queries are answered, UDP and TCP: at
	// most one a family, all with the same port.
	Listen []netip.AddrPort
	// Replica names this one of several that serve the same Service; empty: it
	// is the only one.
	Replica string
	// RESTConfig is the client: it reads Services, EndpointSlices, Namespaces
	// and Pods, and creates the objects in kube-system.
	RESTConfig *rest.Config
	// ClusterDomain is "cluster.local".
	ClusterDomain string
	// ServiceIPs are the ClusterIPs of kube-system/kube-dns: at most one a
	// family.
	ServiceIPs []netip.Addr
	// Upstreams are nameservers ("address" or "address:port") for the rest of
	// the world, written into a new cluster's Corefile. Without any, names
	// outside the cluster fail at once. Addresses of the host's loopback are
	// left out.
	Upstreams []string
	// FilesDir is where the keys of the ConfigMap are files, for plugins that
	// read some. Default /etc/coredns, as in CoreDNS's own pods.
	FilesDir string
	// Log; default slog.Default().
	Log *slog.Logger
}

// comeBack is how often a replica sees to it that it is asked: as often as
// upstream's API servers do.
const comeBack = 10 * time.Second

// one holds CoreDNS's registries, which are the process's.
var one sync.Mutex

// Run serves until ctx ends: it makes the ConfigMap if there is none, starts
// CoreDNS with the Corefile in it, makes the Service, and starts anew when the
// ConfigMap changes. One Run a process at a time.
func Run(ctx context.Context, cfg Config) error {
	if !one.TryLock() {
		return errors.New("cluster DNS: runs already in this process")
	}
	defer one.Unlock()
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.FilesDir == "" {
		cfg.FilesDir = "/etc/coredns"
	}
	if len(cfg.Listen) == 0 || len(cfg.ServiceIPs) == 0 {
		return errors.New("cluster DNS: no address to listen on, or no ClusterIP")
	}
	client, err := kubernetes.NewForConfig(cfg.RESTConfig)
	if err != nil {
		return fmt.Errorf("cluster DNS: client: %w", err)
	}
	clusterClient.Store(cfg.RESTConfig)
	registerPlugins()
	dnsserver.Quiet = true

	s := &server{cfg: cfg, log: cfg.Log, client: client, metrics: metricsServers{}}
	s.events = warn.Start(ctx, client, "skiff-dns")
	defer s.events.Stop()
	return s.run(ctx)
}

// server is one CoreDNS and the objects about it.
type server struct {
	cfg    Config
	log    *slog.Logger
	client kubernetes.Interface
	events *warn.Events

	instance *caddy.Instance
	// tried is the ConfigMap that was started last, whether it worked or not.
	tried   *corev1.ConfigMap
	metrics metricsServers
}

func (s *server) run(ctx context.Context) error {
	var configMap *corev1.ConfigMap
	if err := persist(ctx, s.log, "ConfigMap kube-system/coredns", func() (err error) {
		configMap, err = s.ensureConfigMap(ctx)
		return err
	}); err != nil {
		return nil // ctx ended
	}
	if err := s.start(ctx, configMap); err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	defer s.stop()

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for {
			err := persist(ctx, s.log, "Service kube-system/kube-dns", func() error { return s.ensureService(ctx) })
			if err != nil || s.cfg.Replica == "" {
				return
			}
			// Another replica may have withdrawn us.
			select {
			case <-ctx.Done():
				return
			case <-time.After(comeBack):
			}
		}
	})
	changes := make(chan *corev1.ConfigMap)
	wg.Go(func() { s.watchConfigMap(ctx, changes) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case configMap := <-changes:
			s.reload(ctx, configMap)
		}
	}
}

// start starts CoreDNS with the ConfigMap's Corefile, or with the default one
// if that does not work.
func (s *server) start(ctx context.Context, configMap *corev1.ConfigMap) error {
	s.tried = configMap
	corefile, err := s.read(configMap)
	if err == nil {
		err = s.launch(corefile)
	}
	if err == nil {
		s.serveMetrics(ctx, corefile)
		return nil
	}
	s.refuse(configMap, err)
	if corefile, err = s.host(defaultCorefile(s.cfg.ClusterDomain, forwardable(s.cfg.Upstreams))); err != nil {
		return err
	}
	if err := s.launch(corefile); err != nil {
		return err
	}
	s.serveMetrics(ctx, corefile)
	return nil
}

// launch starts CoreDNS, or puts a new one in the place of the running one.
func (s *server) launch(c *hostedCorefile) (err error) {
	defer func() {
		// A plugin that falls over its arguments takes nobody with it.
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
		err = begun.settle(err)
	}()
	in := caddy.CaddyfileInput{Filepath: corefileKey, Contents: c.text, ServerTypeName: "dns"}
	var next *caddy.Instance
	if s.instance == nil {
		next, err = caddy.Start(in)
	} else if next, err = s.instance.Restart(in); err == nil && next == nil {
		err = errors.New("a plugin panicked") // upstream keeps that to itself
	}
	if err == nil {
		s.instance = next
	}
	return err
}

// reload starts CoreDNS anew on the same sockets. If the Corefile does not
// work, the old one stays.
func (s *server) reload(ctx context.Context, configMap *corev1.ConfigMap) {
	if maps.Equal(configMap.Data, s.tried.Data) && maps.EqualFunc(configMap.BinaryData, s.tried.BinaryData, bytes.Equal) {
		return
	}
	s.tried = configMap
	corefile, err := s.read(configMap)
	if err == nil {
		err = s.launch(corefile)
	}
	if err != nil {
		s.refuse(configMap, err)
		return
	}
	s.serveMetrics(ctx, corefile)
	s.log.Info("Corefile changed", "configMap", configMap.Name)
}

// read brings the ConfigMap's files in place and reads its Corefile.
func (s *server) read(configMap *corev1.ConfigMap) (*hostedCorefile, error) {
	if err := writeFiles(s.cfg.FilesDir, configMap); err != nil {
		return nil, err
	}
	return s.host(configMap.Data[corefileKey])
}

func (s *server) host(corefile string) (*hostedCorefile, error) {
	return hosted(filepath.Join(s.cfg.FilesDir, corefileKey), corefile, s.cfg.Listen)
}

// serveMetrics is not worth a name that is not answered: an address in use is
// reported, and tried again with the next Corefile.
func (s *server) serveMetrics(ctx context.Context, c *hostedCorefile) {
	if err := s.metrics.ensure(ctx, c.metrics); err != nil {
		s.log.Error("cluster DNS has no metrics", "err", err)
		s.events.Say(s.tried, "Reload", "MetricsNotServed", err.Error())
	}
}

func (s *server) refuse(configMap *corev1.ConfigMap, err error) {
	s.log.Error("Corefile refused, the last good one stays", "err", err)
	s.events.Say(configMap, "Reload", "CorefileRefused", "the last good Corefile stays in force: "+err.Error())
}

func (s *server) stop() {
	_ = s.metrics.ensure(context.Background(), nil) // opens nothing
	for _, err := range s.instance.ShutdownCallbacks() {
		s.log.Error("stop cluster DNS", "err", err)
	}
	if err := s.instance.Stop(); err != nil {
		s.log.Error("stop cluster DNS", "err", err)
	}
}

// persist tries until it works or ctx ends: an API server that has just
// started refuses writes for some milliseconds, until its namespaces exist.
func persist(ctx context.Context, log *slog.Logger, what string, try func() error) error {
	wait := 5 * time.Millisecond
	for {
		err := try()
		if err == nil {
			return nil
		}
		if wait >= time.Second {
			log.Error("cluster DNS: not made yet", "object", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(wait*5/4, 2*time.Second)
	}
}
