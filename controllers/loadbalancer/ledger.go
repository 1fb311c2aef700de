package loadbalancer

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// ledger says who has which address. More than one: they share it.
type ledger map[netip.Addr][]*corev1.Service

// add enters a holder.
func (l ledger) add(a netip.Addr, svc *corev1.Service) { l[a] = append(l[a], svc) }

// conflict is the oldest Service because of which another one cannot have the
// address too; nil if there is none.
func (l ledger) conflict(a netip.Addr, svc *corev1.Service) *corev1.Service {
	var oldest *corev1.Service
	for _, holder := range l[a] {
		if holder.UID != svc.UID && !share(holder, svc) && (oldest == nil || age(holder, oldest) < 0) {
			oldest = holder
		}
	}
	return oldest
}

// share tells whether two Services may have one address.
func share(a, b *corev1.Service) bool {
	key := a.Annotations[SharingAnnotation]
	return key != "" && key == b.Annotations[SharingAnnotation] && !samePort(a, b)
}

// samePort tells whether a port is in both.
func samePort(a, b *corev1.Service) bool {
	for i := range a.Spec.Ports {
		for j := range b.Spec.Ports {
			p, q := &a.Spec.Ports[i], &b.Spec.Ports[j]
			if p.Port == q.Port && p.Protocol == q.Protocol {
				return true
			}
		}
	}
	return false
}

// pool hands out the addresses of one range from the lowest on. One made anew
// for each pass gives the lowest that is free.
type pool struct {
	prefix     netip.Prefix
	next, last netip.Addr
}

// newPool leaves out the first address and, of IPv4, the last: the range is
// routed, so that they work, but programs that take them for a network's own
// and for broadcast refuse them. Who asks for them gets them.
func newPool(prefix netip.Prefix) *pool {
	prefix = prefix.Masked()
	p := &pool{prefix: prefix, next: prefix.Addr(), last: lastOf(prefix)}
	if prefix.Addr().BitLen()-prefix.Bits() >= 2 {
		p.next = p.next.Next()
		if prefix.Addr().Is4() {
			p.last = p.last.Prev()
		}
	}
	return p
}

// lastOf is the highest address of a range.
func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

// take returns the next address that nobody has; invalid if there is none.
func (p *pool) take(l ledger) netip.Addr {
	for a := p.next; a.IsValid() && a.Compare(p.last) <= 0; a = a.Next() {
		if len(l[a]) == 0 {
			p.next = a.Next()
			return a
		}
	}
	p.next = netip.Addr{}
	return netip.Addr{}
}
