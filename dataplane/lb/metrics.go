package lb

import (
	"slices"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// meters are the numbers of one Loader, in a registry of its own.
type meters struct {
	registry    metrics.KubeRegistry
	programming *metrics.Histogram
	unwritten   *metrics.Gauge
	destroyed   *metrics.Counter
	affinities  *metrics.Counter
}

func newMeters(l *Loader) *meters {
	m := &meters{
		registry: metrics.NewKubeRegistry(),
		programming: metrics.NewHistogram(&metrics.HistogramOpts{
			Name: "skiff_services_programming_duration_seconds",
			Help: "From the news of a change to the maps that hold it.",
			// 50 microseconds to 1.6 seconds.
			Buckets:        metrics.ExponentialBuckets(0.00005, 2, 16),
			StabilityLevel: metrics.ALPHA,
		}),
		unwritten: metrics.NewGauge(&metrics.GaugeOpts{
			Name: "skiff_services_unwritten", Help: "Services that could not be written and are tried again.", StabilityLevel: metrics.ALPHA,
		}),
		destroyed: metrics.NewCounter(&metrics.CounterOpts{
			Name: "skiff_services_stale_udp_sockets_destroyed_total", Help: "Connected UDP sockets whose backend left.", StabilityLevel: metrics.ALPHA,
		}),
		affinities: metrics.NewCounter(&metrics.CounterOpts{
			Name: "skiff_services_stale_affinities_total", Help: "Clients that were held at a backend that left.", StabilityLevel: metrics.ALPHA,
		}),
	}
	m.registry.MustRegister(m.programming, m.unwritten, m.destroyed, m.affinities)
	m.registry.CustomMustRegister(&mapCollector{loader: l})
	m.registry.CustomMustRegister(l.cfg.Collectors...)
	return m
}

func (m *meters) programmed(since time.Time) { m.programming.Observe(time.Since(since).Seconds()) }

// Descriptions of what is read from the maps when it is asked for. The label
// maps is "node", "switch" on the node that writes these, or "uplink" where
// packets from elsewhere find host ports.
var (
	descFrontends = metrics.NewDesc("skiff_services_frontends", "Addresses with port and protocol that are programmed.", []string{"maps"}, nil, metrics.ALPHA, "")
	descBackends  = metrics.NewDesc("skiff_services_backends", "Endpoints that get new connections, once for every address that leads there.", []string{"maps"}, nil, metrics.ALPHA, "")
	descEntries   = metrics.NewDesc("skiff_services_map_entries", "Entries of a kernel map.", []string{"maps", "map"}, nil, metrics.ALPHA, "")
	descMax       = metrics.NewDesc("skiff_services_map_max_entries", "Entries that a kernel map has room for.", []string{"maps", "map"}, nil, metrics.ALPHA, "")
	descRefused   = metrics.NewDesc("skiff_services_refused_total", "Connections and datagrams to a Service that were refused or dropped.", []string{"maps", "reason"}, nil, metrics.ALPHA, "")
	descOpened    = metrics.NewDesc("skiff_services_nat_flows_opened_total", "Flows that began to be translated.", []string{"maps"}, nil, metrics.ALPHA, "")
	descEvicted   = metrics.NewDesc("skiff_services_nat_flows_evicted_total", "Translated flows that the kernel threw out for want of room.", []string{"maps"}, nil, metrics.ALPHA, "")
)

// reasons are the labels of what is refused.
var reasons = map[table.Counter]string{
	table.RefusedNoEndpoint: "no-endpoint",
	table.RefusedSource:     "source-range",
	table.RefusedBusy:       "busy",
	table.NATNoPort:         "no-port",
}

// mapCollector reads the maps of a Loader.
type mapCollector struct {
	metrics.BaseStableCollector
	loader *Loader
}

var _ metrics.StableCollector = (*mapCollector)(nil)

// DescribeWithStability is part of metrics.StableCollector.
func (c *mapCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{descFrontends, descBackends, descEntries, descMax, descRefused, descOpened, descEvicted} {
		ch <- d
	}
}

// CollectWithStability is part of metrics.StableCollector.
func (c *mapCollector) CollectWithStability(ch chan<- metrics.Metric) {
	l := c.loader
	l.mu.Lock()
	defer l.mu.Unlock()
	gauge := func(d *metrics.Desc, v int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, float64(v), labels...)
	}
	counter := func(d *metrics.Desc, v float64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.CounterValue, v, labels...)
	}
	targets := l.targets
	if l.hostPorts.uplink != nil {
		targets = append(slices.Clone(targets), l.hostPorts.uplink)
	}
	for _, t := range targets {
		s, err := t.table.Stats()
		if err != nil {
			l.log.Error("service maps not read", "maps", t.name, "err", err)
			continue
		}
		gauge(descFrontends, s.Frontends, t.name)
		gauge(descBackends, s.Backends, t.name)
		for name, fill := range s.Maps {
			gauge(descEntries, fill.Entries, t.name, name)
			gauge(descMax, fill.Max, t.name, name)
		}
		for which, reason := range reasons {
			counter(descRefused, float64(s.Counters[which]), t.name, reason)
		}
		if t.flows == nil {
			continue
		}
		n, err := t.flows.Count()
		if err != nil {
			l.log.Error("flows not counted", "maps", t.name, "err", err)
			continue
		}
		gauge(descEntries, n, t.name, "nat_flows")
		gauge(descMax, t.flows.Max(), t.name, "nat_flows")
		counter(descOpened, float64(s.Counters[table.NATOpened]), t.name)
		counter(descEvicted, float64(s.Evictions(n)), t.name)
	}
}
