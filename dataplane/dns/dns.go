package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

// Config is what cluster DNS needs.
type Config struct {
	// Listen is the one address on which queries are answered, UDP and TCP.
	Listen netip.AddrPort
	// RESTConfig is the client: it reads Services, EndpointSlices, Namespaces
	// and Pods, and creates the objects in kube-system.
	RESTConfig *rest.Config
	// ClusterDomain is "cluster.local".
	ClusterDomain string
	// ServiceIP is the ClusterIP of kube-system/kube-dns.
	ServiceIP netip.Addr
	// Upstreams are nameservers ("address" or "address:port") for the rest of
	// the world, written into a new cluster's Corefile. Without any, names
	// outside the cluster fail at once. Addresses of the host's loopback are
	// left out.
	Upstreams []string
	// Log; default slog.Default().
	Log *slog.Logger
}

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
	client, err := kubernetes.NewForConfig(cfg.RESTConfig)
	if err != nil {
		return fmt.Errorf("cluster DNS: client: %w", err)
	}
	clusterClient.Store(cfg.RESTConfig)
	registerPlugins()
	dnsserver.Quiet = true

	s := &server{cfg: cfg, log: cfg.Log, client: client}
	s.broadcaster = events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	defer s.broadcaster.Shutdown()
	if err := s.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("cluster DNS: events: %w", err)
	}
	s.recorder = s.broadcaster.NewRecorder(scheme.Scheme, "skiff-dns")
	return s.run(ctx)
}

// server is one CoreDNS and the objects about it.
type server struct {
	cfg         Config
	log         *slog.Logger
	client      kubernetes.Interface
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder

	instance *caddy.Instance
	// tried is the Corefile that was started last, whether it worked or not.
	tried string
}

func (s *server) run(ctx context.Context) error {
	var configMap *corev1.ConfigMap
	if err := persist(ctx, s.log, "ConfigMap kube-system/coredns", func() (err error) {
		configMap, err = s.ensureConfigMap(ctx)
		return err
	}); err != nil {
		return nil // ctx ended
	}
	if err := s.start(configMap); err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	defer s.stop()

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		_ = persist(ctx, s.log, "Service kube-system/kube-dns", func() error { return s.ensureService(ctx) })
	})
	changes := make(chan *corev1.ConfigMap)
	wg.Go(func() { s.watchConfigMap(ctx, changes) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case configMap := <-changes:
			s.reload(configMap)
		}
	}
}

// start starts CoreDNS with the ConfigMap's Corefile, or with the default one
// if that does not work.
func (s *server) start(configMap *corev1.ConfigMap) error {
	s.tried = configMap.Data[corefileKey]
	input, err := s.input(s.tried)
	if err == nil {
		if s.instance, err = caddy.Start(input); err == nil {
			return nil
		}
	}
	s.refuse(configMap, err)
	if input, err = s.input(defaultCorefile(s.cfg.ClusterDomain, forwardable(s.cfg.Upstreams))); err != nil {
		return err
	}
	s.instance, err = caddy.Start(input)
	return err
}

// reload starts CoreDNS anew on the same sockets. If the Corefile does not
// work, the old one stays.
func (s *server) reload(configMap *corev1.ConfigMap) {
	if configMap.Data[corefileKey] == s.tried {
		return
	}
	s.tried = configMap.Data[corefileKey]
	input, err := s.input(s.tried)
	if err == nil {
		s.instance, err = s.instance.Restart(input)
	}
	if err != nil {
		s.refuse(configMap, err)
		return
	}
	s.log.Info("Corefile changed", "configMap", configMap.Name)
}

func (s *server) input(corefile string) (caddy.Input, error) {
	text, err := hosted(corefile, s.cfg.Listen)
	if err != nil {
		return nil, err
	}
	return caddy.CaddyfileInput{Filepath: "Corefile", Contents: text, ServerTypeName: "dns"}, nil
}

func (s *server) refuse(configMap *corev1.ConfigMap, err error) {
	s.log.Error("Corefile refused, the last good one stays", "err", err)
	s.recorder.Eventf(configMap, nil, corev1.EventTypeWarning, "CorefileRefused", "Reload", "the last good Corefile stays in force: %v", err)
}

func (s *server) stop() {
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
