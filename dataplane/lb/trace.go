package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	proxyapis "k8s.io/kubernetes/pkg/proxy/apis"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
)

// Call is a connection, or a datagram, that is traced.
type Call struct {
	// Node is the name of the node that the caller is on; empty: it is
	// outside, and its packets pass the switch.
	Node string
	// HostNetwork: the caller is in the node's own network namespace, not in
	// a pod's.
	HostNetwork bool
	// From is the caller's address, which source ranges ask for.
	From netip.Addr
	// To is what it calls.
	To    netip.AddrPort
	Proto inet.Protocol
}

// Objects are what the API server holds.
type Objects struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Nodes    []*corev1.Node
}

// Trace is what becomes of a Call.
type Trace struct {
	// Service is the one called; empty if To is no Service's.
	Service types.NamespacedName
	// Port is the name of its port, if that has one.
	Port string
	// HostPort: it is a host port of a pod, which is in no Service.
	HostPort bool
	// Endpoints are all of the port, whether the caller may use them or not.
	Endpoints []Endpoint
	// Planned is the frontend that should be in the maps, Programmed the one
	// that is; nil where there is none.
	Planned, Programmed *table.Frontend
	// Verdict is what the programs do, by what is in the maps.
	Verdict Verdict
	// Missing are planned backends that the maps lack, Extra those in the maps
	// that are not planned (any more).
	Missing, Extra []netip.AddrPort
}

// Endpoint is one of a Service's port.
type Endpoint struct {
	Addr netip.AddrPort
	Node string
	// Ready, Serving and Terminating are its conditions, as defaulted.
	Ready, Serving, Terminating bool
}

// Verdict is what the programs do with a Call.
type Verdict string

// What the programs do.
const (
	Untouched     Verdict = "goes on as it is: no Service has the address and port"
	Translated    Verdict = "goes to one of the backends"
	RefusedEmpty  Verdict = "refused: the Service has no endpoints for this caller"
	RefusedSource Verdict = "refused: the caller is in none of spec.loadBalancerSourceRanges"
)

// InSync says whether the maps hold what is planned.
func (t Trace) InSync() bool { return len(t.Differences()) == 0 }

// Differences are the entries of the maps that are not as planned.
func (t Trace) Differences() []string {
	switch {
	case t.HostPort, t.Planned == nil && t.Programmed == nil:
		return nil
	case t.Programmed == nil:
		return []string{fmt.Sprintf("lb_services lacks %s: the Service is not translated", t.Planned.Key)}
	case t.Planned == nil:
		return []string{fmt.Sprintf("lb_services has %s, which is no Service's for this client", t.Programmed.Key)}
	}
	var out []string
	differ := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("%s in lb_services ", t.Programmed.Key)+fmt.Sprintf(format, args...))
	}
	if t.Planned.Key != t.Programmed.Key {
		differ("is found instead of %s", t.Planned.Key)
	}
	for _, b := range t.Missing {
		differ("lacks the backend %s", b)
	}
	for _, b := range t.Extra {
		differ("has the backend %s, which is not planned (any more)", b)
	}
	if !slices.Equal(sorted(t.Planned.Sources), sorted(t.Programmed.Sources)) || (t.Planned.Sources == nil) != (t.Programmed.Sources == nil) {
		differ("has the source ranges %v, planned are %v", t.Programmed.Sources, t.Planned.Sources)
	}
	if t.Planned.Affinity != t.Programmed.Affinity {
		differ("has the affinity %s, planned is %s", t.Programmed.Affinity, t.Planned.Affinity)
	}
	if t.Planned.NodeOnly != t.Programmed.NodeOnly || t.Planned.NodeOwn != t.Programmed.NodeOwn || t.Planned.Group != t.Programmed.Group {
		differ("is not of the planned kind")
	}
	return out
}

// sorted are prefixes in an order of their own, without doubles.
func sorted(all []netip.Prefix) []netip.Prefix {
	all = slices.Clone(all)
	for i, p := range all {
		all[i] = p.Masked()
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return slices.Compact(all)
}

// TraceCall follows a call through maps (table.Inspect reads them, of the
// caller's node or of the switch) and through the plan that o leads to. It
// changes nothing.
func TraceCall(c Call, o Objects, maps table.Snapshot) Trace {
	f := newFeed(nil, c.Node)
	for _, n := range o.Nodes {
		f.putNode(n)
	}
	for _, es := range o.Slices {
		if es.Labels[discoveryv1.LabelServiceName] != "" && ours(es.Labels) {
			f.putSlice(es)
		}
	}
	for _, s := range o.Services {
		if ours(s.Labels) {
			f.putService(s)
		}
	}
	owners := map[table.Key]types.NamespacedName{}
	groups := map[uint32]types.NamespacedName{}
	var planned []table.Frontend
	claims := newClaims()
	for k, w := range f.plan(f.allServices(), c.Node) {
		got, _, _, _ := claims.settle(k, w.frontends)
		for _, fe := range got {
			owners[fe.Key], groups[fe.Group] = k.name, k.name
		}
		planned = append(planned, got...)
	}
	nodes := map[netip.Addr]bool{}
	for name, n := range f.nodes {
		for _, a := range n.addrs {
			nodes[a] = name == c.Node
		}
	}
	t := Trace{Planned: match(c, planned, nodes), Programmed: whole(match(c, maps.Frontends, maps.Nodes))}
	if t.Planned != nil {
		t.Service = owners[t.Planned.Key]
	} else if t.Programmed != nil {
		t.Service = groups[t.Programmed.Group]
	}
	// No Service's port has group 0.
	t.HostPort = t.Planned == nil && t.Programmed != nil && t.Programmed.Group == 0
	t.Port, t.Endpoints = f.portOf(t.Service, cmp.Or(t.Planned, t.Programmed))
	t.Verdict = verdict(c, t.Programmed)
	t.Missing, t.Extra = without(backendsOf(t.Planned), backendsOf(t.Programmed)), without(backendsOf(t.Programmed), backendsOf(t.Planned))
	return t
}

// portOf is the port of a Service that a frontend is of.
func (f *feed) portOf(service types.NamespacedName, fe *table.Frontend) (string, []Endpoint) {
	k := f.services.get(service)
	if k == nil || k.service == nil || fe == nil {
		return "", nil
	}
	for i := range k.service.ports {
		if port := &k.service.ports[i]; port.group == fe.Group {
			return port.name.Value(), endpointsIn(port, k.all(nil))
		}
	}
	return "", nil
}

func endpointsIn(port *servicePort, all []*slice) []Endpoint {
	var out []Endpoint
	for _, e := range endpointsOf(port, all) {
		out = append(out, Endpoint{Addr: e.addrPort(), Node: e.node.Value(), Ready: e.ready, Serving: e.serving, Terminating: e.terminating})
	}
	return out
}

// ours says whether an object is not another proxy's.
func ours(labels map[string]string) bool {
	_, other := labels[proxyapis.LabelServiceProxyName]
	return !other
}

// match finds what the programs find (find in lb_sock.c and lb_nat.c).
func match(c Call, frontends []table.Frontend, nodes map[netip.Addr]bool) *table.Frontend {
	at := func(addr netip.Addr, scope table.Scope) *table.Frontend {
		i := slices.IndexFunc(frontends, func(f table.Frontend) bool {
			return f.Key == table.Key{Addr: addr, Port: c.To.Port(), Proto: c.Proto, Scope: scope}
		})
		if i < 0 {
			return nil
		}
		return &frontends[i]
	}
	to := c.To.Addr().Unmap()
	own := c.Node != "" && c.HostNetwork
	if f := at(to, table.All); f != nil {
		if f.NodeOnly && !own {
			return nil
		}
		return f
	}
	self, isNode := nodes[to]
	if !isNode {
		return nil
	}
	f := at(anyOf(familyOf(to)), table.AnyNode)
	if f == nil || !f.NodeOwn || self {
		return f
	}
	return at(to, table.FromNode)
}

// whole leaves out what of an entry's backends is not in the maps.
func whole(f *table.Frontend) *table.Frontend {
	if f == nil {
		return nil
	}
	out := *f
	out.Backends = slices.DeleteFunc(slices.Clone(f.Backends), func(b netip.AddrPort) bool { return b.Port() == 0 })
	return &out
}

func verdict(c Call, f *table.Frontend) Verdict {
	switch {
	case f == nil:
		return Untouched
	case f.Sources != nil && !slices.ContainsFunc(f.Sources, func(p netip.Prefix) bool { return p.Contains(c.From.Unmap()) }):
		return RefusedSource
	case len(f.Backends) == 0:
		return RefusedEmpty
	}
	return Translated
}

func backendsOf(f *table.Frontend) []netip.AddrPort {
	if f == nil {
		return nil
	}
	return f.Backends
}

// without are the elements of a that b lacks.
func without(a, b []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
