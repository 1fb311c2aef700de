package lb

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/proxy"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
)

// families are what a Service may have addresses of.
var families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// loopbackOf is where a node's own sockets may call node ports as well.
func loopbackOf(family corev1.IPFamily) netip.Addr {
	if family == corev1.IPv6Protocol {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// anyOf is the address of frontends that all node addresses of a family have.
func anyOf(family corev1.IPFamily) netip.Addr {
	if family == corev1.IPv6Protocol {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

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
	addrs []netip.Addr // of both families, sorted
	zone  string
}

// service is what planning needs of a Service.
type service struct {
	name    types.NamespacedName
	uid     types.UID
	created time.Time
	ports   map[corev1.IPFamily]proxy.ServicePortMap
	// problems are the things that it asks for and does not get.
	problems []problem
}

// problem is one thing that a Service asks for and does not get.
type problem struct{ reason, message string }

// slice is what planning needs of an EndpointSlice.
type slice struct {
	family    corev1.IPFamily
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
// (headless, ExternalName). sctp says whether this kernel has that protocol.
func newService(svc *corev1.Service, sctp bool) *service {
	if proxyutil.ShouldSkipService(svc) {
		return nil
	}
	s := &service{
		name:    types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		uid:     svc.UID,
		created: svc.CreationTimestamp.Time,
		ports:   map[corev1.IPFamily]proxy.ServicePortMap{},
	}
	missing := map[string]struct{}{}
	for _, family := range families {
		if proxyutil.GetClusterIPByFamily(family, svc) == "" {
			continue
		}
		// Upstream's reading of the object; the tracker is the only door to it.
		tracker := proxy.NewServiceChangeTracker(family, nil, nil)
		tracker.Update(nil, svc)
		ports := proxy.ServicePortMap{}
		ports.Update(tracker)
		for name := range ports {
			if name.Protocol == corev1.ProtocolSCTP && !sctp {
				missing[portLabel(name)] = struct{}{}
				delete(ports, name)
			}
		}
		if len(ports) > 0 {
			s.ports[family] = ports
		}
	}
	for label := range missing {
		s.problems = append(s.problems, problem{"ProtocolNotServed", "port " + label + " is not served: this kernel has no SCTP"})
	}
	slices.SortFunc(s.problems, func(a, b problem) int { return strings.Compare(a.message, b.message) })
	return s
}

func portLabel(n proxy.ServicePortName) string {
	if n.Port == "" {
		return string(n.Protocol)
	}
	return n.Port + "/" + string(n.Protocol)
}

// newSlice reads an EndpointSlice; nil for one of names.
func newSlice(es *discoveryv1.EndpointSlice) *slice {
	s := &slice{}
	switch es.AddressType {
	case discoveryv1.AddressTypeIPv4:
		s.family = corev1.IPv4Protocol
	case discoveryv1.AddressTypeIPv6:
		s.family = corev1.IPv6Protocol
	default:
		return nil
	}
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
		if err != nil || familyOf(addr) != s.family {
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
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			out.addrs = append(out.addrs, addr.Unmap())
		}
	}
	slices.SortFunc(out.addrs, netip.Addr.Compare)
	out.addrs = slices.Compact(out.addrs)
	return out
}
