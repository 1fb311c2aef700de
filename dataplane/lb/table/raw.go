package table

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// rawAddr is the address as C reads it: 16 bytes in network order, IPv4
// mapped into IPv6.
func rawAddr(a netip.Addr) (raw tablesLbAddr) {
	b := a.As16()
	for i := range raw.W {
		raw.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return raw
}

func addrFrom(raw tablesLbAddr) netip.Addr {
	var b [16]byte
	for i, w := range raw.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

func portBE(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func rawKey(k Key) tablesLbKey {
	return tablesLbKey{Addr: rawAddr(k.Addr), PortBe: portBE(k.Port), Proto: uint8(k.Proto), Scope: tablesLbScope(k.Scope)}
}

func keyFrom(raw tablesLbKey) Key {
	return Key{Addr: addrFrom(raw.Addr), Port: portBE(raw.PortBe), Proto: inet.Protocol(raw.Proto), Scope: Scope(raw.Scope)}
}

func rawBackend(b netip.AddrPort) tablesLbBackend {
	return tablesLbBackend{Addr: rawAddr(b.Addr()), PortBe: portBE(b.Port())}
}

func backendFrom(raw tablesLbBackend) netip.AddrPort {
	return netip.AddrPortFrom(addrFrom(raw.Addr), portBE(raw.PortBe))
}

// compareBackends is the order in which the programs search (lb_compare in
// lb_pick.h): of the numbers as they lie in memory.
func compareBackends(a, b tablesLbBackend) int {
	for i := range a.Addr.W {
		if c := cmp.Compare(a.Addr.W[i], b.Addr.W[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.PortBe, b.PortBe)
}

// Raw is a backend as the kernel has it: all in network order, IPv4 mapped
// into IPv6.
type Raw struct {
	Addr [4]uint32
	Port uint16
}

// RawBackend is for maps that name backends beside a Table's.
func RawBackend(b netip.AddrPort) Raw {
	raw := rawBackend(b)
	return Raw{Addr: raw.Addr.W, Port: raw.PortBe}
}
