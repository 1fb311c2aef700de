package policy

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"k8s.io/component-base/metrics"
)

// Descriptions of what is read when it is asked for.
var (
	descPolicies = metrics.NewDesc("skiff_policies", "NetworkPolicies that the node knows.", nil, nil, metrics.ALPHA, "")
	descIsolated = metrics.NewDesc("skiff_policies_isolated_addresses", "Addresses of the node's pods that policies select.", nil, nil, metrics.ALPHA, "")
	descEnforced = metrics.NewDesc("skiff_policies_enforced", "1 if what policies say is in force on the node, 0 if not.", nil, nil, metrics.ALPHA, "")
	descDropped  = metrics.NewDesc("skiff_policies_dropped_packets_total", "Packets that policies dropped, by whose do not allow them: the sender's (egress), the receiver's (ingress); malformed: they have no ports.", []string{"reason"}, nil, metrics.ALPHA, "")
	descEntries  = metrics.NewDesc("skiff_policies_map_entries", "Entries of a kernel map.", []string{"map"}, nil, metrics.ALPHA, "")
	descMax      = metrics.NewDesc("skiff_policies_map_max_entries", "Entries that a kernel map has room for.", []string{"map"}, nil, metrics.ALPHA, "")
)

// collector reads a Loader.
type collector struct {
	metrics.BaseStableCollector
	loader *Loader
}

// Collector gives the Loader's numbers to whoever serves metrics.
func (l *Loader) Collector() metrics.StableCollector { return &collector{loader: l} }

// DescribeWithStability is part of metrics.StableCollector.
func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{descPolicies, descIsolated, descEnforced, descDropped, descEntries, descMax} {
		ch <- d
	}
}

// CollectWithStability is part of metrics.StableCollector.
func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	l := c.loader
	drops, err := l.Drops()
	flows, uncounted := l.flows()
	l.mu.Lock()
	defer l.mu.Unlock()
	gauge := func(d *metrics.Desc, v int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, float64(v), labels...)
	}
	enforced := 0
	if l.trouble == nil && l.listed && (l.enforcing || len(l.model.policies) == 0) {
		enforced = 1
	}
	gauge(descEnforced, enforced)
	gauge(descPolicies, len(l.model.policies))
	gauge(descIsolated, l.model.isolated())
	if err != nil {
		l.log.Error("policy drops not read", "err", err)
	} else {
		for reason, n := range map[string]uint64{"egress": drops.Egress, "ingress": drops.Ingress, "malformed": drops.Malformed} {
			ch <- metrics.NewLazyConstMetric(descDropped, metrics.CounterValue, float64(n), reason)
		}
	}
	if l.kernel == nil {
		return
	}
	maps, fill := l.kernel.objects.bpfMaps, l.model.fill()
	if uncounted != nil {
		l.log.Error("policy flows not counted", "err", uncounted)
	} else {
		gauge(descEntries, flows, bpfMapPolicyFlows)
		gauge(descMax, int(maps.PolicyFlows.MaxEntries()), bpfMapPolicyFlows)
	}
	for name, m := range map[string]*ebpf.Map{
		bpfMapPolicyRules: maps.PolicyRules, bpfMapPolicyGroups: maps.PolicyGroups, bpfMapPolicyBlocks: maps.PolicyBlocks,
		bpfMapPolicyPeers: maps.PolicyPeers, bpfMapPolicyPods: maps.PolicyPods,
	} {
		gauge(descEntries, fill[name], name)
		gauge(descMax, int(m.MaxEntries()), name)
	}
}

// flows counts what was allowed and may be answered, stale ones too: the
// kernel drops these when it needs their room.
func (l *Loader) flows() (n int, err error) {
	l.mu.Lock()
	if l.kernel == nil {
		l.mu.Unlock()
		return 0, nil
	}
	flows, err := l.kernel.objects.PolicyFlows.Clone()
	l.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("open policy_flows: %w", err)
	}
	defer func() { err = errors.Join(err, flows.Close()) }()
	const chunk = 1024
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]bpfPolicyFlow, chunk)
		values = make([]bpfPolicySeen, chunk)
	)
	for {
		got, err := flows.BatchLookup(&cursor, keys, values, nil)
		n += got
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read policy_flows: %w", err)
		}
	}
}

// fill counts what the maps hold, by their names.
func (m *model) fill() map[string]int {
	out := map[string]int{bpfMapPolicyPeers: len(m.peerEntries), bpfMapPolicyPods: len(m.podEntries)}
	for _, groups := range m.groups {
		out[bpfMapPolicyGroups] += len(groups)
		for _, g := range groups {
			out[bpfMapPolicyBlocks] += len(g.blocks)
			for _, ports := range g.grants {
				out[bpfMapPolicyRules] += len(ports)
			}
		}
	}
	return out
}
