package lb

import (
	"cmp"
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
	port uint16
	at   string
}

var _ proxy.Endpoint = (*portEndpoint)(nil)

func (e *portEndpoint) addrPort() netip.AddrPort { return netip.AddrPortFrom(e.addr, e.port) }
func (e *portEndpoint) String() string           { return e.addrPort().String() }
func (e *portEndpoint) IP() string               { return e.addr.String() }
func (e *portEndpoint) Port() int                { return int(e.port) }
func (e *portEndpoint) IsLocal() bool            { return e.at != "" && e.node.Value() == e.at }
func (e *portEndpoint) IsReady() bool            { return e.ready }
func (e *portEndpoint) IsServing() bool          { return e.serving }
func (e *portEndpoint) IsTerminating() bool      { return e.terminating }

// ZoneHints is part of proxy.Endpoint.
func (e *portEndpoint) ZoneHints() sets.Set[string] {
	if e.hints == nil {
		return nil
	}
	return e.hints.zones
}

// NodeHints is part of proxy.Endpoint.
func (e *portEndpoint) NodeHints() sets.Set[string] {
	if e.hints == nil {
		return nil
	}
	return e.hints.nodes
}

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

// endpointsOf collects the endpoints of a service port from its slices, which
// are in order: a plan does not change unless the objects do. An address may be
// in two slices while it moves, or belong to two pods while one of them
// terminates.
func endpointsOf(port *servicePort, all []*slice) []portEndpoint {
	var out []portEndpoint
	for _, s := range all {
		if s.family() != port.family() {
			continue
		}
		for _, p := range s.ports {
			if p.name != port.name || p.proto != port.proto {
				continue
			}
			out = slices.Grow(out, len(s.endpoints))
			for i := range s.endpoints {
				out = append(out, portEndpoint{endpoint: &s.endpoints[i], port: p.port})
			}
		}
	}
	// Of those with one address the best comes first, and of equals the one
	// that was first before.
	slices.SortStableFunc(out, func(a, b portEndpoint) int {
		return cmp.Or(a.addrPort().Compare(b.addrPort()), cmp.Compare(b.rank(), a.rank()))
	})
	return slices.CompactFunc(out, func(a, b portEndpoint) bool { return a.addrPort() == b.addrPort() })
}

// categorize asks upstream which endpoints traffic may use that starts on a
// node: under the Cluster policy and under the Local policy.
func (p portPlan) categorize(node, zone string) (cluster, local []netip.AddrPort) {
	seen := make([]proxy.Endpoint, len(p.endpoints))
	for i := range p.endpoints {
		p.endpoints[i].at = node
		seen[i] = &p.endpoints[i]
	}
	var labels map[string]string
	if zone != "" {
		labels = map[string]string{corev1.LabelTopologyZone: zone}
	}
	c, l, _, _ := proxy.CategorizeEndpoints(seen, categorized{port: p.servicePort}, node, labels)
	return addrPorts(c), addrPorts(l)
}

func addrPorts(eps []proxy.Endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(eps))
	for _, e := range eps {
		out = append(out, e.(*portEndpoint).addrPort())
	}
	return out
}
