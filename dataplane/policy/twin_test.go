package policy

import "net/netip"

// twin is a node's maps and the programs' way through them, in Go.
type twin struct {
	rules  map[bpfPolicyRule]struct{}
	groups map[uint32]bpfPolicyGroup
	blocks map[bpfPolicyBlock]uint32
	peers  map[bpfPolicyPeerKey]bpfPolicyPeer
	pods   map[bpfPolicyAddr]bpfPolicyPod
	writes int
}

func newTwin() *twin {
	return &twin{
		map[bpfPolicyRule]struct{}{}, map[uint32]bpfPolicyGroup{}, map[bpfPolicyBlock]uint32{},
		map[bpfPolicyPeerKey]bpfPolicyPeer{}, map[bpfPolicyAddr]bpfPolicyPod{}, 0,
	}
}

func (w *twin) apply(c *changes) {
	for _, e := range c.rules {
		w.rules[e.key] = struct{}{}
	}
	for _, e := range c.groups {
		w.groups[e.id] = e.mask
	}
	for _, e := range c.blocks {
		w.blocks[e.key] = e.peer
	}
	for _, e := range c.peers {
		w.peers[e.claim.raw()] = e.peer
	}
	for _, e := range c.pods {
		w.pods[rawAddr(e.addr)] = e.pod
	}
	for _, a := range c.podsGone {
		delete(w.pods, rawAddr(a))
	}
	for _, at := range c.peersGone {
		delete(w.peers, at.raw())
	}
	for _, k := range c.blocksGone {
		delete(w.blocks, k)
	}
	for _, id := range c.groupsGone {
		delete(w.groups, id)
	}
	for _, e := range c.narrowed {
		if _, ok := w.groups[e.id]; ok {
			w.groups[e.id] = e.mask
		}
	}
	for _, k := range c.rulesGone {
		delete(w.rules, k)
	}
	w.writes += c.size()
}

func (c *changes) size() int {
	return len(c.rules) + len(c.groups) + len(c.blocks) + len(c.peers) + len(c.pods) +
		len(c.podsGone) + len(c.peersGone) + len(c.blocksGone) + len(c.groupsGone) + len(c.narrowed) + len(c.rulesGone)
}

func (w *twin) size() int {
	return len(w.rules) + len(w.groups) + len(w.blocks) + len(w.peers) + len(w.pods)
}

// forwards is policy_judge of a packet that is no answer.
func (w *twin) forwards(p Packet) bool {
	if g := w.pods[rawAddr(p.Src)].Egress; g != 0 && !w.allowed(g, p.Dst, p, p.Port) {
		return false
	}
	g := w.pods[rawAddr(p.Dst)].Ingress
	return g == 0 || w.allowed(g, p.Src, p, 0)
}

func (w *twin) allowed(groupID uint32, addr netip.Addr, p Packet, called uint16) bool {
	g, ok := w.groups[groupID]
	if !ok {
		return false
	}
	match := func(kind bpfPolicyKind, peer uint32) bool { return w.match(groupID, peer, uint32(g.Ports[kind]), p) }
	if match(bpfPolicyKindPOLICY_KIND_ANY, uint32(bpfPolicyPeerNumberPOLICY_PEER_ANY)) {
		return true
	}
	peer, ok := w.peers[claim{addr: addr}.raw()]
	if !ok && called != 0 {
		peer, ok = w.peers[claim{addr, called, p.Protocol}.raw()]
	}
	if ok && (match(bpfPolicyKindPOLICY_KIND_IDENTITY, peer.Identity) || match(bpfPolicyKindPOLICY_KIND_NAMESPACE, peer.Ns) ||
		match(bpfPolicyKindPOLICY_KIND_POD, uint32(bpfPolicyPeerNumberPOLICY_PEER_POD))) {
		return true
	}
	for bits := addr.BitLen(); bits >= 0; bits-- {
		prefix, _ := addr.Prefix(bits)
		if block, ok := w.blocks[blockKey(&group{id: groupID}, prefix)]; ok {
			return match(bpfPolicyKindPOLICY_KIND_BLOCK, block)
		}
	}
	return false
}

func (w *twin) match(group, peer, mask uint32, p Packet) bool {
	has := func(k portKey) bool {
		_, ok := w.rules[bpfPolicyRule{Group: group, Peer: peer, Port: k.port, Proto: uint8(k.protocol), PortBits: k.bits}]
		return ok
	}
	if mask&uint32(bpfPolicyMaskPOLICY_MASK_ALL_PROTOCOLS) != 0 && has(portKey{}) {
		return true
	}
	if !p.Protocol.hasPorts() {
		return false
	}
	for bits := 16; bits >= 0; bits-- {
		if mask&(1<<bits) != 0 && has(portKey{p.Protocol, p.Port & uint16(0xffff<<(16-bits)), uint8(bits)}) {
			return true
		}
	}
	return false
}
