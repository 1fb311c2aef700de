package lb

import (
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// loopback is where a node's own sockets may call node ports as well.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// view is from where services are seen.
type view struct {
	// node is the name of the node whose sockets look; empty: the outside,
	// whose packets the switch sees.
	node string
	// nodes are all nodes of the cluster by name.
	nodes map[string]node
}

// node is what planning needs of a Node.
type node struct {
	addrs []netip.Addr // IPv4, sorted
	zone  string
}

// service is what planning needs of a Service.
type service struct {
	name    types.NamespacedName
	uid     types.UID
	created time.Time
	ports   proxy.ServicePortMap
	// problems are the things that it asks for and does not get.
	problems []problem
}

// problem is one thing that a Service asks for and does not get.
type problem struct{ reason, message string }

// slice is what planning needs of an EndpointSlice.
type slice struct {
	ports     []slicePort
	endpoints []*endpoint
}

type slicePort struct {
	name  string
	proto corev1.Protocol
	port  int
}

// endpoint is one address of a slice.
type endpoint struct {
	addr        netip.Addr
	node        string
	ready       bool
	serving     bool
	terminating bool
	zoneHints   sets.Set[string]
	nodeHints   sets.Set[string]
}

// newService reads a Service; nil for what has no address of its own
// (headless, ExternalName).
func newService(svc *corev1.Service) *service {
	// Upstream's reading of the object; the tracker is the only door to it.
	tracker := proxy.NewServiceChangeTracker(corev1.IPv4Protocol, nil, nil)
	tracker.Update(nil, svc)
	ports := proxy.ServicePortMap{}
	ports.Update(tracker)

	s := &service{
		name:    types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		uid:     svc.UID,
		created: svc.CreationTimestamp.Time,
		ports:   ports,
	}
	if len(ports) == 0 {
		if headless := svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == ""; headless || svc.Spec.Type == corev1.ServiceTypeExternalName {
			return nil
		}
		s.problems = append(s.problems, problem{"IPFamilyNotServed", "the Service has no IPv4 address; this cluster serves IPv4 only"})
	}
	for name := range ports {
		if name.Protocol != corev1.ProtocolTCP && name.Protocol != corev1.ProtocolUDP {
			s.problems = append(s.problems, problem{"ProtocolNotServed", "port " + portLabel(name) + " is not served: only TCP and UDP are"})
			delete(ports, name)
		}
	}
	if len(svc.Spec.ClusterIPs) > 1 {
		s.problems = append(s.problems, problem{"IPFamilyNotServed", "only the Service's IPv4 address is served"})
	}
	for _, p := range ports {
		if len(p.LoadBalancerSourceRanges()) > 0 && len(p.LoadBalancerVIPs()) > 0 {
			s.problems = append(s.problems, problem{"SourceRangesNotServed", "spec.loadBalancerSourceRanges is not supported: the Service's LoadBalancer addresses stay closed to everybody"})
			break
		}
	}
	slices.SortFunc(s.problems, func(a, b problem) int {
		if a.message < b.message {
			return -1
		}
		return 1
	})
	return s
}

func portLabel(n proxy.ServicePortName) string {
	if n.Port == "" {
		return string(n.Protocol)
	}
	return n.Port + "/" + string(n.Protocol)
}

// newSlice reads an EndpointSlice; nil for families other than IPv4.
func newSlice(es *discoveryv1.EndpointSlice) *slice {
	if es.AddressType != discoveryv1.AddressTypeIPv4 {
		return nil
	}
	s := &slice{}
	for _, p := range es.Ports {
		if p.Name == nil || p.Port == nil || p.Protocol == nil || *p.Port == 0 {
			continue
		}
		s.ports = append(s.ports, slicePort{*p.Name, *p.Protocol, int(*p.Port)})
	}
	for i := range es.Endpoints {
		e := &es.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(e.Addresses[0])
		if err != nil || !addr.Is4() {
			continue
		}
		ep := &endpoint{
			addr:        addr,
			ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
			terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
		}
		if e.NodeName != nil {
			ep.node = *e.NodeName
		}
		if e.Hints != nil {
			for _, z := range e.Hints.ForZones {
				ep.zoneHints = insert(ep.zoneHints, z.Name)
			}
			for _, n := range e.Hints.ForNodes {
				ep.nodeHints = insert(ep.nodeHints, n.Name)
			}
		}
		s.endpoints = append(s.endpoints, ep)
	}
	return s
}

func insert(s sets.Set[string], v string) sets.Set[string] {
	if s == nil {
		s = sets.New[string]()
	}
	return s.Insert(v)
}

// newNode reads a Node.
func newNode(n *corev1.Node) node {
	out := node{zone: n.Labels[corev1.LabelTopologyZone]}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil && addr.Is4() {
			out.addrs = append(out.addrs, addr)
		}
	}
	slices.SortFunc(out.addrs, netip.Addr.Compare)
	out.addrs = slices.Compact(out.addrs)
	return out
}

// plan says what the kernel should hold for one service, seen from v. The
// slices are all of the service's, in any order.
func plan(s *service, all map[string]*slice, v view) []table.Frontend {
	var out []table.Frontend
	for name, port := range s.ports {
		if v.node == "" {
			out = append(out, planOutside(name, port, endpointsOf(name, all), v)...)
		} else {
			out = append(out, planNode(name, port, endpointsOf(name, all), v)...)
		}
	}
	return out
}

// planNode is one port as the sockets of a node and of its pods see it.
// Local clients of external addresses get endpoints of the whole cluster
// whatever externalTrafficPolicy says, as upstream short-circuits them.
func planNode(name proxy.ServicePortName, port proxy.ServicePort, eps []*portEndpoint, v view) []table.Frontend {
	cluster, local := categorize(eps, port, v.node, v.nodes[v.node].zone)
	internal := cluster
	if port.InternalPolicyLocal() {
		internal = local
	}
	proto := protocolOf(name)
	f := frontend(port, internal)
	f.Key = table.Key{Addr: toAddr(port.ClusterIP()), Port: uint16(port.Port()), Proto: proto}
	out := []table.Frontend{f}

	if p := uint16(port.NodePort()); p != 0 {
		f := frontend(port, cluster)
		f.Key = table.Key{Port: p, Proto: proto}
		f.NodeOwn = port.ExternalPolicyLocal()
		out = append(out, f)
		if f.NodeOwn {
			out = append(out, planNodes(name, port, eps, v, table.Key{Port: p, Proto: proto, FromNode: true})...)
		}
		f = frontend(port, cluster)
		f.Key = table.Key{Addr: loopback, Port: p, Proto: proto}
		f.NodeOnly = true
		out = append(out, f)
	}
	return append(out, planAddresses(name, port, cluster)...)
}

// planOutside is one port as packets in the switch see it. The outside is no
// node: a port for one node's own endpoints shows it each node's.
func planOutside(name proxy.ServicePortName, port proxy.ServicePort, eps []*portEndpoint, v view) []table.Frontend {
	cluster, local := categorize(eps, port, "", "")
	internal := cluster
	if port.InternalPolicyLocal() {
		internal = local
	}
	proto := protocolOf(name)
	f := frontend(port, internal)
	f.Key = table.Key{Addr: toAddr(port.ClusterIP()), Port: uint16(port.Port()), Proto: proto}
	out := []table.Frontend{f}

	if p := uint16(port.NodePort()); p != 0 {
		if port.ExternalPolicyLocal() {
			out = append(out, planNodes(name, port, eps, v, table.Key{Port: p, Proto: proto})...)
		} else {
			f := frontend(port, cluster)
			f.Key = table.Key{Port: p, Proto: proto}
			out = append(out, f)
		}
	}
	return append(out, planAddresses(name, port, cluster)...)
}

// planNodes gives every other node's address the endpoints on that node.
func planNodes(name proxy.ServicePortName, port proxy.ServicePort, eps []*portEndpoint, v view, key table.Key) []table.Frontend {
	var out []table.Frontend
	for other, n := range v.nodes {
		if other == v.node {
			continue
		}
		_, local := categorize(eps, port, other, n.zone)
		for _, a := range n.addrs {
			f := frontend(port, local)
			f.Key = key
			f.Addr = a
			out = append(out, f)
		}
	}
	return out
}

// planAddresses gives the addresses of load balancers and spec.externalIPs
// the endpoints.
func planAddresses(name proxy.ServicePortName, port proxy.ServicePort, eps []netip.AddrPort) []table.Frontend {
	var addrs []netip.Addr
	if len(port.LoadBalancerSourceRanges()) == 0 {
		for _, ip := range port.LoadBalancerVIPs() {
			addrs = append(addrs, toAddr(ip))
		}
	}
	for _, ip := range port.ExternalIPs() {
		addrs = append(addrs, toAddr(ip))
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []table.Frontend
	for _, a := range slices.Compact(addrs) {
		f := frontend(port, eps)
		f.Key = table.Key{Addr: a, Port: uint16(port.Port()), Proto: protocolOf(name)}
		out = append(out, f)
	}
	return out
}

func frontend(port proxy.ServicePort, eps []netip.AddrPort) table.Frontend {
	f := table.Frontend{Backends: eps}
	if port.SessionAffinityType() == corev1.ServiceAffinityClientIP {
		f.Affinity = time.Duration(port.StickyMaxAgeSeconds()) * time.Second
	}
	return f
}

func protocolOf(name proxy.ServicePortName) table.Protocol {
	if name.Protocol == corev1.ProtocolUDP {
		return table.UDP
	}
	return table.TCP
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
