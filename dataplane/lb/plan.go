package lb

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// portPlan is what is planned for: one port of one family of a Service, seen
// from a view, with the endpoints that traffic may use.
type portPlan struct {
	view
	family    corev1.IPFamily
	port      proxy.ServicePort
	proto     table.Protocol
	group     uint32
	endpoints []*portEndpoint
}

// plan says what the kernel should hold for one service, seen from v. The
// slices are all of the service's, in any order.
func plan(s *service, all map[string]*slice, v view) []table.Frontend {
	var out []table.Frontend
	for family, ports := range s.ports {
		for name, port := range ports {
			p := portPlan{
				view: v, family: family, port: port, proto: protocolOf(name), group: groupOf(family, name),
				endpoints: endpointsOf(family, name, all),
			}
			switch {
			case v.node != "":
				out = append(out, p.fromNode()...)
			case p.proto != table.SCTP: // packets of SCTP pass the switch as they are
				out = append(out, p.fromOutside()...)
			}
		}
	}
	return out
}

// fromNode is the port as the sockets of a node and of its pods see it. Local
// clients of external addresses get endpoints of the whole cluster whatever
// externalTrafficPolicy says, as upstream short-circuits them.
func (p portPlan) fromNode() []table.Frontend {
	cluster, local := p.categorize(p.node, p.nodes[p.node].zone)
	out := []table.Frontend{p.clusterIP(cluster, local)}
	if number := uint16(p.port.NodePort()); number != 0 {
		f := p.frontend(anyOf(p.family), number, cluster)
		f.Scope = table.AnyNode
		f.NodeOwn = p.port.ExternalPolicyLocal()
		out = append(out, f)
		if f.NodeOwn {
			out = append(out, p.eachNode(table.FromNode)...)
		}
		f = p.frontend(loopbackOf(p.family), number, cluster)
		f.NodeOnly = true
		out = append(out, f)
	}
	return append(out, p.addresses(cluster)...)
}

// fromOutside is the port as packets in the switch see it. The outside is no
// node: a port for one node's own endpoints shows it each node's.
func (p portPlan) fromOutside() []table.Frontend {
	cluster, local := p.categorize("", "")
	out := []table.Frontend{p.clusterIP(cluster, local)}
	if number := uint16(p.port.NodePort()); number != 0 {
		if p.port.ExternalPolicyLocal() {
			out = append(out, p.eachNode(table.All)...)
		} else {
			f := p.frontend(anyOf(p.family), number, cluster)
			f.Scope = table.AnyNode
			out = append(out, f)
		}
	}
	return append(out, p.addresses(cluster)...)
}

func (p portPlan) clusterIP(cluster, local []netip.AddrPort) table.Frontend {
	internal := cluster
	if p.port.InternalPolicyLocal() {
		internal = local
	}
	return p.frontend(toAddr(p.port.ClusterIP()), uint16(p.port.Port()), internal)
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
			if familyOf(a) != p.family {
				continue
			}
			f := p.frontend(a, uint16(p.port.NodePort()), local)
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
	var out []table.Frontend
	seen := map[netip.Addr]struct{}{}
	add := func(ips []net.IP, from []netip.Prefix) {
		for _, ip := range ips {
			a := toAddr(ip)
			if _, twice := seen[a]; twice {
				continue
			}
			seen[a] = struct{}{}
			f := p.frontend(a, uint16(p.port.Port()), eps)
			f.Sources = from
			out = append(out, f)
		}
	}
	add(p.port.LoadBalancerVIPs(), toPrefixes(p.port.LoadBalancerSourceRanges()))
	add(p.port.ExternalIPs(), nil)
	return out
}

func (p portPlan) frontend(addr netip.Addr, number uint16, eps []netip.AddrPort) table.Frontend {
	f := table.Frontend{
		Key:      table.Key{Addr: addr, Port: number, Proto: p.proto},
		Backends: eps,
		Group:    p.group,
	}
	if p.proto == table.UDP {
		f.Keep = p.serving(eps)
	}
	if p.port.SessionAffinityType() == corev1.ServiceAffinityClientIP {
		f.Affinity = time.Duration(p.port.StickyMaxAgeSeconds()) * time.Second
	}
	return f
}

// serving are the endpoints beside eps that flows may stay with: upstream
// ends a flow when its endpoint serves no more, whatever policies say of new
// ones.
func (p portPlan) serving(eps []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range p.endpoints {
		if e.serving && !slices.Contains(eps, e.addrPort()) {
			out = append(out, e.addrPort())
		}
	}
	return out
}

// groupOf numbers a service port: affinity is to it, whatever its address.
func groupOf(family corev1.IPFamily, name proxy.ServicePortName) uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s %s %s", family, name.NamespacedName, name.Port, name.Protocol)
	return h.Sum32()
}

func protocolOf(name proxy.ServicePortName) table.Protocol {
	switch name.Protocol {
	case corev1.ProtocolUDP:
		return table.UDP
	case corev1.ProtocolSCTP:
		return table.SCTP
	}
	return table.TCP
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// toPrefixes are nil for no ranges: everybody.
func toPrefixes(ranges []*net.IPNet) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range ranges {
		bits, _ := r.Mask.Size()
		out = append(out, netip.PrefixFrom(toAddr(r.IP), bits))
	}
	return out
}
