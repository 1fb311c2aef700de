package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Snapshot is what a node's maps hold at some moment, and the programs' way
// through them in Go.
type Snapshot struct {
	// Attached: the programs are at the node's hooks.
	Attached bool

	rules  map[bpfPolicyRule]bpfPolicyKind
	groups map[uint32]bpfPolicyGroup
	blocks map[bpfPolicyBlock]uint32
	peers  map[bpfPolicyPeerKey]bpfPolicyPeer
	pods   map[bpfPolicyAddr]bpfPolicyPod
}

func newSnapshot() *Snapshot {
	return &Snapshot{
		rules: map[bpfPolicyRule]bpfPolicyKind{}, groups: map[uint32]bpfPolicyGroup{}, blocks: map[bpfPolicyBlock]uint32{},
		peers: map[bpfPolicyPeerKey]bpfPolicyPeer{}, pods: map[bpfPolicyAddr]bpfPolicyPod{},
	}
}

// Inspect reads the maps of the programs that are pinned in dir, and leaves
// them as they are. Where nothing is attached no pod is isolated.
func Inspect(dir string) (*Snapshot, error) {
	s := newSnapshot()
	all, err := sets(dir)
	if err != nil || len(all) == 0 {
		return s, err
	}
	// While one process follows another there are two, and the new one's is
	// filled first.
	pin := filepath.Join(dir, strconv.Itoa(slices.Max(all)), bpfProgPolicyForward4)
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil // going, or not yet there
	}
	if err != nil {
		return nil, fmt.Errorf("open policy program: %w", err)
	}
	defer l.Close()
	s.Attached = true
	return s, s.readMapsOf(l)
}

// readMapsOf reads the maps of an attached program: they have no pins.
func (s *Snapshot) readMapsOf(l link.Link) (err error) {
	attached, err := l.Info()
	if err != nil {
		return fmt.Errorf("read policy program: %w", err)
	}
	prog, err := ebpf.NewProgramFromID(attached.Program)
	if err != nil {
		return fmt.Errorf("open policy program %d: %w", attached.Program, err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("read policy program %d: %w", attached.Program, err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if err := s.readMap(id); err != nil {
			return fmt.Errorf("read policy map %d: %w", id, err)
		}
	}
	return nil
}

func (s *Snapshot) readMap(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return err
	}
	switch info.Name {
	case bpfMapPolicyRules:
		return readInto(s.rules, m)
	case bpfMapPolicyGroups:
		return readInto(s.groups, m)
	case bpfMapPolicyBlocks:
		return readInto(s.blocks, m)
	case bpfMapPolicyPeers:
		return readInto(s.peers, m)
	case bpfMapPolicyPods:
		return readInto(s.pods, m)
	}
	return nil
}

func readInto[K comparable, V any](to map[K]V, m *ebpf.Map) error {
	var (
		key   K
		value V
	)
	all := m.Iterate()
	for all.Next(&key, &value) {
		to[key] = value
	}
	return all.Err()
}

// planned is what the maps of a node should hold.
func planned(w World, node string) *Snapshot {
	s := newSnapshot()
	s.apply(modelOf(w, node).commit())
	return s
}

// modelOf is what a node's Loader makes of a world.
func modelOf(w World, node string) *model {
	m := newModel(node)
	for _, p := range w.Policies {
		m.setPolicy(newPolicy(p))
	}
	for _, p := range w.Pods {
		m.setPod(p)
	}
	for name, set := range w.Namespaces {
		m.setNamespace(name, set)
	}
	return m
}

func (s *Snapshot) apply(c *changes) {
	for _, e := range c.rules {
		s.rules[e.key] = e.kind
	}
	for _, e := range c.groups {
		s.groups[e.id] = e.mask
	}
	for _, e := range c.blocks {
		s.blocks[e.key] = e.peer
	}
	for _, e := range c.peers {
		s.peers[e.claim.raw()] = e.peer
	}
	for _, e := range c.pods {
		s.pods[rawAddr(e.addr)] = e.pod
	}
	for _, a := range c.podsGone {
		delete(s.pods, rawAddr(a))
	}
	for _, at := range c.peersGone {
		delete(s.peers, at.raw())
	}
	for _, k := range c.blocksGone {
		delete(s.blocks, k)
	}
	for _, id := range c.groupsGone {
		delete(s.groups, id)
	}
	for _, e := range c.narrowed {
		if _, ok := s.groups[e.id]; ok {
			s.groups[e.id] = e.mask
		}
	}
	for _, k := range c.rulesGone {
		delete(s.rules, k)
	}
}

// lookup is what a judge finds on its way.
type lookup struct {
	// group is the one of the pod; 0: it is not isolated.
	group uint32
	// known: the group has an entry.
	known bool
	// peer: the other end has an entry.
	peer    bool
	allowed bool
}

// judge is the programs' verdict about one direction of a packet.
func (s *Snapshot) judge(d Direction, p Packet) lookup {
	group, other, called := s.pods[rawAddr(p.Src)].Egress, p.Dst, p.Port
	if d == Ingress {
		group, other, called = s.pods[rawAddr(p.Dst)].Ingress, p.Src, 0
	}
	if group == 0 {
		return lookup{allowed: true}
	}
	l := lookup{group: group}
	masks, known := s.groups[group]
	if !known {
		return l
	}
	l.known = true
	peer, ok := s.peers[claim{addr: other}.raw()]
	if !ok && called != 0 {
		peer, ok = s.peers[claim{other, called, p.Protocol}.raw()]
	}
	l.peer = ok
	match := func(kind bpfPolicyKind, peer uint32) bool { return s.match(group, peer, uint32(masks.Ports[kind]), p) }
	l.allowed = match(bpfPolicyKindPOLICY_KIND_ANY, uint32(bpfPolicyPeerNumberPOLICY_PEER_ANY)) ||
		ok && (match(bpfPolicyKindPOLICY_KIND_IDENTITY, peer.Identity) || match(bpfPolicyKindPOLICY_KIND_NAMESPACE, peer.Ns) ||
			match(bpfPolicyKindPOLICY_KIND_POD, uint32(bpfPolicyPeerNumberPOLICY_PEER_POD))) ||
		s.inBlock(group, other, match)
	return l
}

// inBlock asks the longest block of a group that holds an address.
func (s *Snapshot) inBlock(groupID uint32, addr netip.Addr, match func(bpfPolicyKind, uint32) bool) bool {
	for bits := addr.BitLen(); bits >= 0; bits-- {
		prefix, _ := addr.Prefix(bits)
		if block, ok := s.blocks[blockKey(&group{id: groupID}, prefix)]; ok {
			return match(bpfPolicyKindPOLICY_KIND_BLOCK, block)
		}
	}
	return false
}

func (s *Snapshot) match(group, peer, mask uint32, p Packet) bool {
	has := func(k portKey) bool {
		_, ok := s.rules[bpfPolicyRule{Group: group, Peer: peer, Port: k.port, Proto: uint8(k.protocol), PortBits: k.bits}]
		return ok
	}
	if mask&uint32(bpfPolicyMaskPOLICY_MASK_ALL_PROTOCOLS) != 0 && has(portKey{}) {
		return true
	}
	if !p.Protocol.HasPorts() {
		return false
	}
	for bits := 16; bits >= 0; bits-- {
		if mask&(1<<bits) != 0 && has(portKey{p.Protocol, p.Port & uint16(0xffff<<(16-bits)), uint8(bits)}) {
			return true
		}
	}
	return false
}
