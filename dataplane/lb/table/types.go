package table

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// Scope says who sees a key.
type Scope uint8

const (
	// All keys are what they say, for everybody.
	All = Scope(tablesLbScopeLB_SCOPE_ALL)
	// FromNode keys are another node's address, as sockets of the node and its
	// pods see it where the frontend of AnyNode has NodeOwn.
	FromNode = Scope(tablesLbScopeLB_SCOPE_NODE)
	// AnyNode keys are every address of Addr's family that SetNodes named;
	// Addr is the family's unspecified address.
	AnyNode = Scope(tablesLbScopeLB_SCOPE_ANY)
)

// Key is what a client calls.
type Key struct {
	Addr  netip.Addr
	Port  uint16
	Proto inet.Protocol
	Scope Scope
}

// String is "addr:port/proto", with "node" and the family for AnyNode.
func (k Key) String() string {
	addr := netip.AddrPortFrom(k.Addr, k.Port).String()
	if k.Scope == AnyNode {
		family := "IPv6"
		if k.Addr.Is4() {
			family = "IPv4"
		}
		addr = fmt.Sprintf("node(%s):%d", family, k.Port)
	}
	suffix := ""
	if k.Scope == FromNode {
		suffix = " (from the node)"
	}
	return fmt.Sprintf("%s/%s%s", addr, k.Proto, suffix)
}

// Frontend is one key and where it leads. All its addresses are of the key's
// family.
type Frontend struct {
	Key
	// Backends get new connections; without one, connections are refused.
	// Their order is of no meaning.
	Backends []netip.AddrPort
	// Keep are backends that get nothing new and keep the UDP flows that they
	// have: what still serves while it terminates, or serves other nodes.
	Keep []netip.AddrPort
	// Affinity keeps a client with its backend until so long after its last
	// connection; zero: no affinity. Whole seconds.
	Affinity time.Duration
	// Group names the service port: affinity is to it, whatever its address.
	Group uint32
	// Sources are the only ones who may call; nil: everybody.
	Sources []netip.Prefix
	// NodeOnly hides the frontend from all but the sockets of the node's own
	// network namespace: what 127.0.0.1 is to a node is not what it is to
	// a pod.
	NodeOnly bool
	// NodeOwn belongs to a frontend of AnyNode: sockets that call another node
	// see the FromNode key of that address instead.
	NodeOwn bool
}

// entry is a frontend as the kernel has it, without what follows from the key.
type entry struct {
	// set is nil without backends.
	set       *set
	affinityS uint32
	group     uint32
	// sources is nil without Sources.
	sources *sources
	flags   tablesLbFlags
	// broken: a writer died over it; it is equal to nothing.
	broken bool
}

// compiled is a frontend on its way into the maps.
type compiled struct {
	key     tablesLbKey
	content content
	sources []tablesLbSource
	entry   entry // without set and sources
}

// compile turns a frontend into what the maps hold of it.
func compile(f Frontend) (compiled, error) {
	var c compiled
	if !f.Addr.IsValid() {
		return c, fmt.Errorf("frontend %s: no address", f.Key)
	}
	c.key = rawKey(f.Key)
	c.entry = entry{affinityS: uint32(f.Affinity / time.Second), group: f.Group}
	if f.NodeOnly {
		c.entry.flags |= tablesLbFlagsLB_NODE_ONLY
	}
	if f.NodeOwn {
		c.entry.flags |= tablesLbFlagsLB_NODE_OWN
	}
	if f.Sources != nil {
		c.entry.flags |= tablesLbFlagsLB_SOURCES
	}
	for _, list := range [][]netip.AddrPort{f.Backends, f.Keep} {
		for _, b := range list {
			if b.Addr().Is4() != f.Addr.Is4() {
				return c, fmt.Errorf("backend %s of %s: another address family", b, f.Key)
			}
		}
	}
	for _, p := range f.Sources {
		if p.Addr().Is4() != f.Addr.Is4() {
			return c, fmt.Errorf("source range %s of %s: another address family", p, f.Key)
		}
	}
	c.content = contentOf(f.Backends, f.Keep)
	c.sources = rawSources(f.Sources)
	return c, nil
}

// frontendFrom turns an entry back.
func frontendFrom(raw tablesLbKey, e entry) Frontend {
	f := Frontend{
		Key:      keyFrom(raw),
		Affinity: time.Duration(e.affinityS) * time.Second,
		Group:    e.group,
		NodeOnly: e.flags&tablesLbFlagsLB_NODE_ONLY != 0,
		NodeOwn:  e.flags&tablesLbFlagsLB_NODE_OWN != 0,
	}
	if e.set != nil {
		f.Backends, f.Keep = e.set.addrPorts()
	}
	if e.flags&tablesLbFlagsLB_SOURCES != 0 {
		f.Sources = []netip.Prefix{}
		if e.sources != nil {
			f.Sources = e.sources.prefixes()
		}
	}
	return f
}
