package table

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Protocol of a frontend, as the kernel numbers it.
type Protocol uint8

// The protocols that the programs serve.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String is the name as Kubernetes writes it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Key is what a client calls.
type Key struct {
	// Addr is an IPv4 address; the zero Addr means every address that
	// SetNodes named.
	Addr  netip.Addr
	Port  uint16
	Proto Protocol
	// FromNode keys are seen by the node's own sockets only, and only where
	// the frontend of the zero Addr has NodeOwn.
	FromNode bool
}

// String is "addr:port/proto", with "node" for the zero Addr.
func (k Key) String() string {
	addr := "node"
	if k.Addr.IsValid() {
		addr = k.Addr.String()
	}
	suffix := ""
	if k.FromNode {
		suffix = " (from the node)"
	}
	return fmt.Sprintf("%s:%d/%s%s", addr, k.Port, k.Proto, suffix)
}

// Frontend is one key and where it leads.
type Frontend struct {
	Key
	// Backends are IPv4; none means that connections are refused. Their
	// order is of no meaning.
	Backends []netip.AddrPort
	// Affinity keeps a client with its backend until so long after its last
	// connection; zero: no affinity. Whole seconds.
	Affinity time.Duration
	// NodeOnly hides the frontend from all but the sockets of the node's own
	// network namespace: what 127.0.0.1 is to a node is not what it is to
	// a pod.
	NodeOnly bool
	// NodeOwn belongs to a frontend of the zero Addr: the node's own sockets
	// that call another node see the FromNode key of that address instead.
	NodeOwn bool
}

// entry is a frontend as the kernel has it, without what follows from the key.
type entry struct {
	set       uint32
	affinityS uint32
	flags     tablesLbFlags
	backends  []tablesLbBackend // sorted, unique
	// slots is how many slots the set has: len(backends), unless broken.
	slots int
	// broken: a writer died over it; it is equal to nothing.
	broken bool
}

func (e entry) sameAs(o entry) bool {
	return !e.broken && !o.broken && e.affinityS == o.affinityS && e.flags == o.flags && slices.Equal(e.backends, o.backends)
}

// addrBE is the address as C reads it: the bytes in network order.
func addrBE(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func portBE(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func addrFrom(be uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], be)
	return netip.AddrFrom4(b)
}

// rawKey turns a Key into the map's.
func rawKey(k Key) (tablesLbKey, error) {
	raw := tablesLbKey{PortBe: portBE(k.Port), Proto: uint8(k.Proto)}
	if k.FromNode {
		raw.Scope = tablesLbScopeLB_SCOPE_NODE
	}
	if !k.Addr.IsValid() {
		return raw, nil
	}
	if !k.Addr.Is4() {
		return raw, fmt.Errorf("key %s: not an IPv4 address", k)
	}
	raw.AddrBe = addrBE(k.Addr)
	return raw, nil
}

// keyFrom turns a map's key back.
func keyFrom(raw tablesLbKey) Key {
	k := Key{Port: portBE(raw.PortBe), Proto: Protocol(raw.Proto), FromNode: raw.Scope == tablesLbScopeLB_SCOPE_NODE}
	if raw.AddrBe != 0 {
		k.Addr = addrFrom(raw.AddrBe)
	}
	return k
}

// compile turns a frontend into its key and entry.
func compile(f Frontend) (tablesLbKey, entry, error) {
	key, err := rawKey(f.Key)
	if err != nil {
		return key, entry{}, err
	}
	e := entry{affinityS: uint32(f.Affinity / time.Second)}
	if f.NodeOnly {
		e.flags |= tablesLbFlagsLB_NODE_ONLY
	}
	if f.NodeOwn {
		e.flags |= tablesLbFlagsLB_NODE_OWN
	}
	// Who looks again whether a backend still is one: affinity, and UDP
	// sockets that send without connecting.
	if e.affinityS != 0 || f.Proto == UDP {
		e.flags |= tablesLbFlagsLB_MEMBERS
	}
	e.backends = make([]tablesLbBackend, 0, len(f.Backends))
	for _, b := range f.Backends {
		if !b.Addr().Is4() {
			return key, e, fmt.Errorf("backend %s of %s: not an IPv4 address", b, f.Key)
		}
		e.backends = append(e.backends, tablesLbBackend{AddrBe: addrBE(b.Addr()), PortBe: portBE(b.Port())})
	}
	slices.SortFunc(e.backends, compareBackends)
	e.backends = slices.Compact(e.backends)
	e.slots = len(e.backends)
	return key, e, nil
}

func compareBackends(a, b tablesLbBackend) int {
	if a.AddrBe != b.AddrBe {
		if a.AddrBe < b.AddrBe {
			return -1
		}
		return 1
	}
	return int(a.PortBe) - int(b.PortBe)
}

// frontendFrom turns an entry back; for callers that compare.
func frontendFrom(raw tablesLbKey, e entry) Frontend {
	f := Frontend{
		Key:      keyFrom(raw),
		Affinity: time.Duration(e.affinityS) * time.Second,
		NodeOnly: e.flags&tablesLbFlagsLB_NODE_ONLY != 0,
		NodeOwn:  e.flags&tablesLbFlagsLB_NODE_OWN != 0,
	}
	for _, b := range e.backends {
		f.Backends = append(f.Backends, netip.AddrPortFrom(addrFrom(b.AddrBe), portBE(b.PortBe)))
	}
	return f
}
