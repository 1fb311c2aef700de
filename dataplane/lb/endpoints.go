package lb

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/proxy"
)

// portEndpoint is an endpoint of one service port, as upstream's
// categorization asks about it: seen from node at.
type portEndpoint struct {
	*endpoint
	port int
	at   string
}

var _ proxy.Endpoint = (*portEndpoint)(nil)

func (e *portEndpoint) addrPort() netip.AddrPort    { return netip.AddrPortFrom(e.addr, uint16(e.port)) }
func (e *portEndpoint) String() string              { return e.addrPort().String() }
func (e *portEndpoint) IP() string                  { return e.addr.String() }
func (e *portEndpoint) Port() int                   { return e.port }
func (e *portEndpoint) IsLocal() bool               { return e.at != "" && e.node == e.at }
func (e *portEndpoint) IsReady() bool               { return e.ready }
func (e *portEndpoint) IsServing() bool             { return e.serving }
func (e *portEndpoint) IsTerminating() bool         { return e.terminating }
func (e *portEndpoint) ZoneHints() sets.Set[string] { return e.zoneHints }
func (e *portEndpoint) NodeHints() sets.Set[string] { return e.nodeHints }

// rank orders endpoints of one address: the one that is not terminating
// counts, as upstream, and of several, the one that is ready.
func (e *endpoint) rank() int {
	rank := 0
	for i, holds := range []bool{e.serving, e.ready, !e.terminating} {
		if holds {
			rank |= 1 << i
		}
	}
	return rank
}

// endpointsOf collects one family's endpoints of a service port from its slices. An
// address may be in two slices while it moves, or belong to two pods while
// one of them terminates.
func endpointsOf(family corev1.IPFamily, name proxy.ServicePortName, all map[string]*slice) []*portEndpoint {
	found := map[netip.AddrPort]*portEndpoint{}
	// In order: a plan does not change unless the objects do.
	for _, slice := range slices.Sorted(maps.Keys(all)) {
		s := all[slice]
		if s.family != family {
			continue
		}
		for _, p := range s.ports {
			if p.name != name.Port || p.proto != name.Protocol {
				continue
			}
			for _, e := range s.endpoints {
				pe := &portEndpoint{endpoint: e, port: p.port}
				if have, exists := found[pe.addrPort()]; !exists || e.rank() > have.rank() {
					found[pe.addrPort()] = pe
				}
			}
		}
	}
	out := make([]*portEndpoint, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *portEndpoint) int { return a.addrPort().Compare(b.addrPort()) })
	return out
}

// categorize asks upstream which endpoints traffic may use that starts on a
// node: under the Cluster policy and under the Local policy.
func (p portPlan) categorize(node, zone string) (cluster, local []netip.AddrPort) {
	seen := make([]proxy.Endpoint, len(p.endpoints))
	for i, e := range p.endpoints {
		e.at = node
		seen[i] = e
	}
	labels := map[string]string{}
	if zone != "" {
		labels[corev1.LabelTopologyZone] = zone
	}
	c, l, _, _ := proxy.CategorizeEndpoints(seen, p.port, node, labels)
	return addrPorts(c), addrPorts(l)
}

func addrPorts(eps []proxy.Endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(eps))
	for _, e := range eps {
		out = append(out, e.(*portEndpoint).addrPort())
	}
	return out
}
