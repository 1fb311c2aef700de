package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

const (
	metricsPlugin = "prometheus"
	// hostedMetricsPlugin is upstream's prometheus plugin without its server:
	// that one would show the whole process's metrics, etcd's too, and take
	// DNS down when its port is in use.
	hostedMetricsPlugin = "skiff_prometheus"
	// defaultMetricsAddress is upstream's.
	defaultMetricsAddress = "localhost:9153"
)

func setupMetrics(c *caddy.Controller) error {
	m := metrics.New("")
	for seen := false; c.Next(); seen = true {
		if seen {
			return plugin.Error(metricsPlugin, plugin.ErrOnce)
		}
		for _, zone := range plugin.OriginsFromArgsOrServerBlock(nil, c.ServerBlockKeys) {
			m.AddZone(zone)
		}
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		m.Next = next
		return m
	})
	return nil
}

// metricsAddresses is where metrics are served that a Corefile wants on
// address: every address, for a pod, is here that of the server.
func metricsAddresses(address string, listen []netip.AddrPort) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", metricsPlugin, err)
	}
	if host != "" {
		return []string{address}, nil
	}
	var at []string
	for _, l := range listen {
		at = append(at, net.JoinHostPort(l.Addr().String(), port))
	}
	return at, nil
}

// metricsServers serve CoreDNS's metrics, by address.
type metricsServers map[string]*http.Server

// ensure serves on the wanted addresses and no other. What cannot be opened is
// an error, and the rest is served.
func (m metricsServers) ensure(ctx context.Context, want []string) error {
	for address, server := range m {
		if !slices.Contains(want, address) {
			server.Close()
			delete(m, address)
		}
	}
	var errs []error
	for _, address := range want {
		if m[address] != nil {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			errs = append(errs, fmt.Errorf("serve metrics: %w", err))
			continue
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(prometheus.GathererFunc(gather), promhttp.HandlerOpts{}))
		server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
		m[address] = server
		// Ends with the listener, which the server closes.
		go func() { _ = server.Serve(l) }()
	}
	return errors.Join(errs...)
}

// gather is what a CoreDNS in a process of its own would show.
func gather() ([]*dto.MetricFamily, error) {
	all, err := prometheus.DefaultGatherer.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		return !slices.ContainsFunc([]string{"coredns_", "go_", "process_"}, func(prefix string) bool {
			return strings.HasPrefix(f.GetName(), prefix)
		})
	}), err
}
