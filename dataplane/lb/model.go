package lb

import (
	"net/netip"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
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

// familiesOf are the families that a node has addresses of, and with them the
// cluster's Services.
func familiesOf(addrs []netip.Addr) []corev1.IPFamily {
	var found []corev1.IPFamily
	for _, a := range addrs {
		if f := familyOf(a); !slices.Contains(found, f) {
			found = append(found, f)
		}
	}
	return found
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

// service is what planning needs of a Service. There may be ten thousands, so
// it is small: no maps, no objects of upstream's, names shared.
type service struct {
	// uid is empty where nobody writes Events.
	uid types.UID
	// created is in seconds, which is all that the API keeps.
	created int64
	ports   []servicePort
}

// slice is what planning needs of an EndpointSlice.
type slice struct {
	name string
	// of is its Service, once the feed has it.
	of *known
	// next is the Service's next one.
	next      *slice
	ports     []slicePort
	endpoints []endpoint
	v6        bool
}

func (s *slice) fullName() types.NamespacedName {
	return types.NamespacedName{Namespace: s.of.name.Namespace, Name: s.name}
}

func (s *slice) family() corev1.IPFamily {
	if s.v6 {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

type slicePort struct {
	name  interned
	proto inet.Protocol
	port  uint16
}

// endpoint is one address of a slice.
type endpoint struct {
	addr        netip.Addr
	node        interned // empty: none is named
	hints       *hints   // nil: none
	ready       bool
	serving     bool
	terminating bool
}

// hints are whose traffic an endpoint is for.
type hints struct{ zones, nodes sets.Set[string] }

// interned is a string in one copy for all that have it: what the decoder
// gives us is everybody's own.
type interned = unique.Handle[string]

func shared(s string) string { return unique.Make(s).Value() }

// newService reads a Service; nil for what has no address of its own
// (headless, ExternalName).
func newService(svc *corev1.Service) *service {
	if proxyutil.ShouldSkipService(svc) {
		return nil
	}
	s := &service{
		uid:     svc.UID,
		created: svc.CreationTimestamp.Unix(),
	}
	for _, family := range families {
		if proxyutil.GetClusterIPByFamily(family, svc) == "" {
			continue
		}
		s.ports = slices.AppendSeq(s.ports, readPorts(family, svc))
	}
	s.ports = slices.Clip(s.ports)
	return s
}

// newSlice reads an EndpointSlice; nil for one of names.
func newSlice(es *discoveryv1.EndpointSlice) *slice {
	s := &slice{name: es.Name}
	switch es.AddressType {
	case discoveryv1.AddressTypeIPv4:
	case discoveryv1.AddressTypeIPv6:
		s.v6 = true
	default:
		return nil
	}
	s.ports = make([]slicePort, 0, len(es.Ports))
	for _, p := range es.Ports {
		if p.Name == nil || p.Port == nil || p.Protocol == nil || *p.Port == 0 {
			continue
		}
		s.ports = append(s.ports, slicePort{unique.Make(*p.Name), inet.ProtocolOf(*p.Protocol), uint16(*p.Port)})
	}
	s.endpoints = make([]endpoint, 0, len(es.Endpoints))
	for i := range es.Endpoints {
		e := &es.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(e.Addresses[0])
		if err != nil || familyOf(addr) != s.family() {
			continue
		}
		s.endpoints = append(s.endpoints, endpoint{
			addr:        addr,
			node:        unique.Make(ptr.Deref(e.NodeName, "")),
			hints:       newHints(e.Hints),
			ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
			terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
		})
	}
	return s
}

func newHints(h *discoveryv1.EndpointHints) *hints {
	if h == nil || len(h.ForZones)+len(h.ForNodes) == 0 {
		return nil
	}
	out := &hints{}
	for _, z := range h.ForZones {
		out.zones = insert(out.zones, shared(z.Name))
	}
	for _, n := range h.ForNodes {
		out.nodes = insert(out.nodes, shared(n.Name))
	}
	return out
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
