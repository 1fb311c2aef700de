package lb

import (
	"hash/fnv"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// servicePort is what planning needs of one port of one family of a Service,
// as upstream reads it.
type servicePort struct {
	name      interned
	clusterIP netip.Addr
	// outer is nil for a port that has neither load balancers' addresses nor
	// external ones.
	outer *outer
	// group numbers a service port: affinity is to it, whatever its address.
	group uint32
	// affinityS is 0 for none.
	affinityS   int32
	number      uint16
	nodePort    uint16
	healthCheck uint16
	proto       inet.Protocol
	// externalLocal and internalLocal are the traffic policies.
	externalLocal, internalLocal bool
	// usesCluster and usesLocal say which endpoints count at all.
	usesCluster, usesLocal bool
}

// outer are a port's addresses beside those of cluster and nodes.
type outer struct {
	balancers, external []netip.Addr
	// sources are the only ones that may call balancers; nil: everybody.
	sources []netip.Prefix
}

// portReader reads one Service at a time. Its tracker is the only door to
// upstream's reading of the object.
type portReader struct {
	tracker *proxy.ServiceChangeTracker
	read    func(p *corev1.ServicePort, read *proxy.BaseServicePortInfo)
}

// portReaders are made once: there may be ten thousands of Services.
var portReaders = map[corev1.IPFamily]*sync.Pool{
	corev1.IPv4Protocol: {New: func() any { return newPortReader(corev1.IPv4Protocol) }},
	corev1.IPv6Protocol: {New: func() any { return newPortReader(corev1.IPv6Protocol) }},
}

func newPortReader(family corev1.IPFamily) *portReader {
	r := &portReader{}
	r.tracker = proxy.NewServiceChangeTracker(family, func(p *corev1.ServicePort, _ *corev1.Service, read *proxy.BaseServicePortInfo) proxy.ServicePort {
		r.read(p, read)
		return read
	}, nil)
	return r
}

// readPorts are a Service's ports of one family.
func readPorts(family corev1.IPFamily, svc *corev1.Service) iter.Seq[servicePort] {
	return func(yield func(servicePort) bool) {
		r := portReaders[family].Get().(*portReader)
		defer portReaders[family].Put(r)
		more := true
		r.read = func(p *corev1.ServicePort, read *proxy.BaseServicePortInfo) {
			more = more && yield(newServicePort(family, svc, p.Name, read))
		}
		r.tracker.Update(nil, svc)
		// There was nothing and there is nothing: the tracker forgets it.
		r.tracker.Update(svc, nil)
		r.read = nil
	}
}

func newServicePort(family corev1.IPFamily, svc *corev1.Service, name string, read *proxy.BaseServicePortInfo) servicePort {
	p := servicePort{
		name:          unique.Make(name),
		clusterIP:     toAddr(read.ClusterIP()),
		group:         groupOf(family, svc, name, read.Protocol()),
		number:        uint16(read.Port()),
		nodePort:      uint16(read.NodePort()),
		healthCheck:   uint16(read.HealthCheckNodePort()),
		proto:         inet.ProtocolOf(read.Protocol()),
		externalLocal: read.ExternalPolicyLocal(),
		internalLocal: read.InternalPolicyLocal(),
		usesCluster:   read.UsesClusterEndpoints(),
		usesLocal:     read.UsesLocalEndpoints(),
	}
	if read.SessionAffinityType() == corev1.ServiceAffinityClientIP {
		p.affinityS = int32(read.StickyMaxAgeSeconds())
	}
	if balancers, external := read.LoadBalancerVIPs(), read.ExternalIPs(); len(balancers)+len(external) > 0 {
		p.outer = &outer{toAddrs(balancers), toAddrs(external), toPrefixes(read.LoadBalancerSourceRanges())}
	}
	return p
}

func (p *servicePort) family() corev1.IPFamily { return familyOf(p.clusterIP) }

func (p *servicePort) affinity() time.Duration { return time.Duration(p.affinityS) * time.Second }

// label is the port's name for people.
func (p *servicePort) label() string {
	if p.name.Value() == "" {
		return p.proto.String()
	}
	return p.name.Value() + "/" + p.proto.String()
}

// categorized is a servicePort as upstream's categorization of endpoints asks
// about it. It asks nothing else, and for String whenever it could log.
type categorized struct {
	proxy.ServicePort // nil
	port              *servicePort
}

func (c categorized) String() string             { return c.port.clusterIP.String() }
func (c categorized) UsesClusterEndpoints() bool { return c.port.usesCluster }
func (c categorized) UsesLocalEndpoints() bool   { return c.port.usesLocal }

// groupOf hashes the name of a service port.
func groupOf(family corev1.IPFamily, svc *corev1.Service, port string, proto corev1.Protocol) uint32 {
	h := fnv.New32a()
	name := make([]byte, 0, 128)
	for _, part := range []string{string(family), " ", svc.Namespace, "/", svc.Name, " ", port, " ", string(proto)} {
		name = append(name, part...)
	}
	_, _ = h.Write(name) // never fails
	return h.Sum32()
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func toAddrs(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		out = append(out, toAddr(ip))
	}
	return out
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
