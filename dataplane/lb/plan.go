package lb

import (
	"net/netip"
	"slices"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// portPlan is what is planned for: one port of one family of a Service, seen
// from a view, with the endpoints that traffic may use.
type portPlan struct {
	view
	*servicePort
	endpoints []portEndpoint
}

// plan says what the kernel should hold for one service, seen from v. The
// slices are all of the service's, in any order.
func plan(s *service, all []*slice, v view) []table.Frontend {
	var out []table.Frontend
	for i := range s.ports {
		p := portPlan{view: v, servicePort: &s.ports[i], endpoints: endpointsOf(&s.ports[i], all)}
		if v.node != "" {
			out = append(out, p.fromNode()...)
		} else {
			out = append(out, p.fromOutside()...)
		}
	}
	return out
}

// fromNode is the port as a node and its pods see it. Local
// clients of external addresses get endpoints of the whole cluster whatever
// externalTrafficPolicy says, as upstream short-circuits them.
func (p portPlan) fromNode() []table.Frontend {
	cluster, local := p.categorize(p.node, p.nodes[p.node].zone)
	out := []table.Frontend{p.internal(cluster, local)}
	if p.nodePort != 0 {
		f := p.frontend(anyOf(p.family()), p.nodePort, cluster)
		f.Scope = table.AnyNode
		f.NodeOwn = p.externalLocal
		out = append(out, f)
		if f.NodeOwn {
			out = append(out, p.eachNode(table.FromNode)...)
		}
		if loopbackServes(p.proto) {
			f = p.frontend(loopbackOf(p.family()), p.nodePort, cluster)
			f.NodeOnly = true
			out = append(out, f)
		}
	}
	return append(out, p.addresses(cluster)...)
}

// fromOutside is the port as packets in the switch see it. The outside is no
// node: a port for one node's own endpoints shows it each node's.
func (p portPlan) fromOutside() []table.Frontend {
	cluster, local := p.categorize("", "")
	out := []table.Frontend{p.internal(cluster, local)}
	if p.nodePort != 0 {
		if p.externalLocal {
			out = append(out, p.eachNode(table.All)...)
		} else {
			f := p.frontend(anyOf(p.family()), p.nodePort, cluster)
			f.Scope = table.AnyNode
			out = append(out, f)
		}
	}
	return append(out, p.addresses(cluster)...)
}

func (p portPlan) internal(cluster, local []netip.AddrPort) table.Frontend {
	if p.internalLocal {
		return p.frontend(p.clusterIP, p.number, local)
	}
	return p.frontend(p.clusterIP, p.number, cluster)
}

// eachNode gives every other node's address the endpoints on that node.
func (p portPlan) eachNode(scope table.Scope) []table.Frontend {
	var out []table.Frontend
	for other, n := range p.nodes {
		if other == p.node {
			continue
		}
		_, local := p.categorize(other, n.zone)
		for _, a := range n.addrs {
			if familyOf(a) != p.family() {
				continue
			}
			f := p.frontend(a, p.nodePort, local)
			f.Scope = scope
			out = append(out, f)
		}
	}
	return out
}

// addresses gives the addresses of load balancers and spec.externalIPs the
// endpoints. Source ranges are for a load balancer's addresses only, also
// where spec.externalIPs names one of these again.
func (p portPlan) addresses(eps []netip.AddrPort) []table.Frontend {
	if p.outer == nil {
		return nil
	}
	var out []table.Frontend
	seen := map[netip.Addr]struct{}{}
	add := func(addrs []netip.Addr, from []netip.Prefix) {
		for _, a := range addrs {
			if _, twice := seen[a]; twice {
				continue
			}
			seen[a] = struct{}{}
			f := p.frontend(a, p.number, eps)
			f.Sources = from
			out = append(out, f)
		}
	}
	add(p.outer.balancers, p.outer.sources)
	add(p.outer.external, nil)
	return out
}

func (p portPlan) frontend(addr netip.Addr, number uint16, eps []netip.AddrPort) table.Frontend {
	f := table.Frontend{
		Key:      table.Key{Addr: addr, Port: number, Proto: p.proto},
		Backends: eps,
		Group:    p.group,
		Affinity: p.affinity(),
	}
	if p.proto == inet.UDP {
		f.Keep = p.serving(eps)
	}
	return f
}

// serving are the endpoints beside eps that flows may stay with: upstream
// ends a flow when its endpoint serves no more, whatever policies say of new
// ones.
func (p portPlan) serving(eps []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range p.endpoints {
		e := &p.endpoints[i]
		if e.serving && !slices.Contains(eps, e.addrPort()) {
			out = append(out, e.addrPort())
		}
	}
	return out
}
