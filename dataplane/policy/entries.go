package policy

import (
	"net/netip"
)

// writeClaim compares the entries of an address with what they should be.
func (m *model) writeClaim(c *changes, at claim) {
	var (
		peer bpfPolicyPeer
		pod  bpfPolicyPod
	)
	if o := m.owner(at); o != nil {
		id := o.identities[at]
		if id.uses > 0 || id.namespace.peer.uses > 0 || m.anyPod.uses > 0 {
			peer = bpfPolicyPeer{Identity: id.id, Ns: id.namespace.peer.id}
		}
		if g := o.groups[Ingress]; g != nil {
			pod.Ingress = g.id
		}
		if g := o.groups[Egress]; g != nil {
			pod.Egress = g.id
		}
	}
	have, had := m.peerEntries[at]
	switch {
	case peer != bpfPolicyPeer{} && peer != have:
		c.peers = append(c.peers, peerEntry{at, peer})
		m.peerEntries[at] = peer
	case had && peer == bpfPolicyPeer{}:
		c.peersGone = append(c.peersGone, at)
		delete(m.peerEntries, at)
	}
	was, wasIsolated := m.podEntries[at.addr]
	switch {
	case at.port != 0:
	case pod != bpfPolicyPod{} && pod != was:
		c.pods = append(c.pods, podEntry{at.addr, pod})
		m.podEntries[at.addr] = pod
	case wasIsolated && pod == bpfPolicyPod{}:
		c.podsGone = append(c.podsGone, at.addr)
		delete(m.podEntries, at.addr)
	}
}

// refill marks everything as not written, for maps that are empty.
func (m *model) refill() {
	for _, groups := range m.groups {
		for _, g := range groups {
			g.whole = true
			m.dirty.groups[g] = struct{}{}
		}
	}
	clear(m.podEntries)
	clear(m.peerEntries)
	for at := range m.claims {
		m.dirty.claims[at] = struct{}{}
	}
}

// unwritten says whether the last commit could not be written in full.
func (m *model) unwritten() bool {
	return len(m.dirty.groups)+len(m.dirty.claims) > 0
}

// written says whether the maps have what they should about a pod's address.
func (m *model) written(addr netip.Addr) bool {
	_, waits := m.dirty.claims[claim{addr: addr}]
	return !waits
}

// failed takes back what could not be written: the next commit has it again.
// It returns the policies that lack something.
func (m *model) failed(f failures) map[*policy]error {
	out := map[*policy]error{}
	for _, groups := range m.groups {
		for _, g := range groups {
			err := f.groups[g.id]
			if err == nil {
				continue
			}
			g.whole = true
			m.dirty.groups[g] = struct{}{}
			for _, name := range g.policies {
				if p := m.policies[name]; p != nil {
					out[p] = err
				}
			}
		}
	}
	for at := range f.peers {
		delete(m.peerEntries, at)
		m.dirty.claims[at] = struct{}{}
	}
	for addr, err := range f.pods {
		delete(m.podEntries, addr)
		at := claim{addr: addr}
		m.dirty.claims[at] = struct{}{}
		if o := m.owner(at); o != nil {
			for p := range o.selectedBy {
				out[p] = err
			}
		}
	}
	return out
}

// ruleKey is the map's key of a grant.
func ruleKey(g *group, p *peer, k portKey) bpfPolicyRule {
	return bpfPolicyRule{Group: g.id, Peer: p.id, Port: k.port, Proto: uint8(k.protocol), PortBits: k.bits}
}

// allProtocolsBit is where POLICY_MASK_ALL_PROTOCOLS is.
const allProtocolsBit = 17

// bit is the place of a grant in a group's masks.
func (k portKey) bit() int {
	if k.protocol == 0 {
		return allProtocolsBit
	}
	return int(k.bits)
}

func blockKey(g *group, prefix netip.Prefix) bpfPolicyBlock {
	key := bpfPolicyBlock{Group: g.id, Family: family(prefix.Addr()), Addr: rawAddr(prefix.Addr())}
	// The group and the family come first; an IPv4 address is the last 32 of
	// 128 bits.
	key.PrefixBits = 64 + uint32(128-prefix.Addr().BitLen()+prefix.Bits())
	return key
}

func family(a netip.Addr) uint32 {
	if a.Is4() {
		return 4
	}
	return 6
}
