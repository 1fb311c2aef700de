package dns

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	kubernetesPlugin = "kubernetes"
	// hostedKubernetesPlugin is upstream's kubernetes plugin with another
	// setup; hosted Corefiles have it in the place of the other. It differs
	// in three things: the client is ours, starting waits for the cache in
	// steps of 2 ms instead of 100 and for a second instead of five, and klog
	// of the whole process is left alone.
	hostedKubernetesPlugin = "skiff_kubernetes"
)

// clusterClient is the client of the one cluster DNS in this process.
var clusterClient atomic.Pointer[rest.Config]

// registerPlugins makes ours known to CoreDNS; its registry is one a process.
var registerPlugins = sync.OnceFunc(func() {
	plugin.Register(hostedKubernetesPlugin, setupKubernetes)
	plugin.Register(hostedMetricsPlugin, setupMetrics)
	plugin.Register(outsidePlugin, setupOutside)
	order := slices.Clone(dnsserver.Directives)
	for theirs, ours := range map[string]string{kubernetesPlugin: hostedKubernetesPlugin, metricsPlugin: hostedMetricsPlugin} {
		order = slices.Insert(order, slices.Index(order, theirs)+1, ours)
	}
	dnsserver.Directives = append(order, outsidePlugin)
})

func setupKubernetes(c *caddy.Controller) error {
	if !c.Next() {
		return plugin.Error(kubernetesPlugin, c.ArgErr())
	}
	k, err := kubernetes.ParseStanza(c)
	if err != nil {
		return plugin.Error(kubernetesPlugin, err)
	}
	if c.Next() {
		return plugin.Error(kubernetesPlugin, plugin.ErrOnce)
	}
	// A Corefile that names another API server gets it.
	if len(k.APIServerList) == 0 && k.ClientConfig == nil {
		k.ClientConfig = &clientConfig{clusterClient.Load()}
	}
	_, stop, err := k.InitKubeCache(context.Background())
	if err != nil {
		return plugin.Error(kubernetesPlugin, err)
	}
	var running sync.WaitGroup
	end := sync.OnceValue(func() error {
		err := stop()
		running.Wait()
		return err
	})
	c.OnStartup(func() error {
		begun.add(end)
		running.Go(k.APIConn.Run)
		awaitSync(k.APIConn.HasSynced)
		return nil
	})
	c.OnShutdown(end)
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		k.Next = next
		return k
	})
	return nil
}

// awaitSync gives the cache a second to fill; upstream offers nothing to wait
// on. A new instance takes the sockets over when it knows the answers. If the
// API server is away it starts all the same: until the cache is filled, names
// that are not in it are answered with SERVFAIL.
func awaitSync(synced func() bool) {
	deadline := time.Now().Add(time.Second)
	for !synced() && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
}

// begun ends what an instance had begun that did not start in the end: CoreDNS
// forgets such an instance.
var begun unfinished

type unfinished struct {
	mu   sync.Mutex // guards ends
	ends []func() error
}

func (u *unfinished) add(end func() error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ends = append(u.ends, end)
}

// settle forgets what was begun, and ends it if the start failed.
func (u *unfinished) settle(failed error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	errs := []error{failed}
	if failed != nil {
		for _, end := range u.ends {
			errs = append(errs, end())
		}
	}
	u.ends = nil
	return errors.Join(errs...)
}

// clientConfig hands a client over where upstream asks for a kubeconfig.
type clientConfig struct{ config *rest.Config }

var _ clientcmd.ClientConfig = (*clientConfig)(nil)

func (c *clientConfig) ClientConfig() (*rest.Config, error) { return rest.CopyConfig(c.config), nil }
func (c *clientConfig) Namespace() (string, bool, error)    { return "", false, nil }
func (c *clientConfig) ConfigAccess() clientcmd.ConfigAccess {
	return clientcmd.NewDefaultPathOptions()
}
func (c *clientConfig) RawConfig() (clientcmdapi.Config, error) { return clientcmdapi.Config{}, nil }
