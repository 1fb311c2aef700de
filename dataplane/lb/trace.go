package lb

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	proxyapis "k8s.io/kubernetes/pkg/proxy/apis"

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
	Proto table.Protocol
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
	// Planned is the frontend that should be in the maps, Programmed the one
	// that is; nil where there is none.
	Planned, Programmed *table.Frontend
	// Verdict is what the programs do, by what is in the maps.
	Verdict Verdict
	// Missing are planned backends that the maps lack, Extra those in the maps
	// that are not planned (any more).
	Missing, Extra []netip.AddrPort
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
func (t Trace) InSync() bool {
	return (t.Planned == nil) == (t.Programmed == nil) && len(t.Missing) == 0 && len(t.Extra) == 0
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
	names := f.allServices(claims)
	plans := f.plan(names, c.Node)
	for _, name := range names {
		got, _, _, _ := claims.settle(name, plans[name].frontends)
		for _, fe := range got {
			owners[fe.Key], groups[fe.Group] = name, name
		}
		planned = append(planned, got...)
	}
	nodes := map[netip.Addr]bool{}
	for name, n := range f.nodes {
		for _, a := range n.addrs {
			nodes[a] = name == c.Node
		}
	}
	t := Trace{Planned: match(c, planned, nodes), Programmed: match(c, maps.Frontends, maps.Nodes)}
	if t.Planned != nil {
		t.Service = owners[t.Planned.Key]
	} else if t.Programmed != nil {
		t.Service = groups[t.Programmed.Group]
	}
	t.Verdict = verdict(c, t.Programmed)
	t.Missing, t.Extra = without(backendsOf(t.Planned), backendsOf(t.Programmed)), without(backendsOf(t.Programmed), backendsOf(t.Planned))
	return t
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
