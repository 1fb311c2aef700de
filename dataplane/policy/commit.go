package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// changes are entries to write and to delete, by map. The order of the fields
// is that of writing; deletions go the other way round.
type changes struct {
	rules  []ruleEntry
	groups []groupEntry
	blocks []blockEntry // the longest first
	peers  []peerEntry
	pods   []podEntry

	// Deletions.
	podsGone   []netip.Addr
	peersGone  []claim
	blocksGone []bpfPolicyBlock
	groupsGone []uint32
	// narrowed groups have less to look up once the rules are gone.
	narrowed  []groupEntry
	rulesGone []bpfPolicyRule
}

type ruleEntry struct {
	key  bpfPolicyRule
	kind bpfPolicyKind
}

type groupEntry struct {
	id   uint32
	mask bpfPolicyGroup
}

type blockEntry struct {
	key  bpfPolicyBlock
	peer uint32
}

type peerEntry struct {
	claim claim
	peer  bpfPolicyPeer
}

type podEntry struct {
	addr netip.Addr
	pod  bpfPolicyPod
}

// commit works out what the changes since the last commit mean for the maps,
// and takes for granted that they will be written; see failed.
func (m *model) commit() *changes {
	c := &changes{}
	if m.dirty.vocabulary {
		for _, p := range m.pods {
			m.dirty.pods[p] = struct{}{}
		}
	}
	for p := range m.dirty.pods {
		m.settle(p)
	}
	for g := range m.dirty.groups {
		if g.pods > 0 {
			m.regrantAll(c, g)
		}
	}
	if len(m.dirty.peers) > 0 {
		for _, groups := range m.groups {
			for _, g := range groups {
				if _, done := m.dirty.groups[g]; done {
					continue
				}
				changed := false
				for p := range m.dirty.peers {
					if g.looksAt(p) {
						changed = m.regrant(c, g, p) || changed
					}
				}
				if changed {
					m.writeMask(c, g)
				}
			}
		}
	}
	for g := range m.released.groups {
		m.dropGroup(c, g)
	}
	for p := range m.released.identities {
		m.dropIdentity(c, p)
	}
	for at := range m.dirty.claims {
		m.writeClaim(c, at)
	}
	m.dirty.vocabulary = false
	clear(m.dirty.pods)
	clear(m.dirty.groups)
	clear(m.dirty.peers)
	clear(m.dirty.claims)
	for ns := range m.released.namespaces {
		m.dropNamespace(ns)
	}
	clear(m.released.groups)
	clear(m.released.identities)
	slices.SortFunc(c.blocks, func(a, b blockEntry) int { return int(b.key.PrefixBits) - int(a.key.PrefixBits) })
	return c
}

// settle finds a pod's identities and groups.
func (m *model) settle(p *pod) {
	var wanted []claim
	if m.pods[p.Name] == p {
		wanted = m.claimsOf(p)
	}
	set, ports := m.words.labels(p.Labels), resolve(m.words.ports, p.Ports)
	for _, at := range wanted {
		now := m.identity(p.namespace, set, ports, m.words.holding(at.addr))
		before := p.identities[at]
		if before == now {
			continue
		}
		if before == nil {
			m.claims[at] = append(m.claims[at], p)
		} else {
			m.release(before)
		}
		now.users++
		p.identities[at] = now
		m.credit(at)
	}
	for at, before := range p.identities {
		if slices.Contains(wanted, at) {
			continue
		}
		m.claims[at] = slices.DeleteFunc(m.claims[at], func(o *pod) bool { return o == p })
		if len(m.claims[at]) == 0 {
			delete(m.claims, at)
		}
		delete(p.identities, at)
		m.release(before)
		m.credit(at)
	}
	for _, d := range []Direction{Ingress, Egress} {
		m.join(p, d)
	}
}

// identity finds or makes the peer that selectors see there.
func (m *model) identity(ns *namespace, set labels.Set, ports map[namedPort]uint16, blocks map[string]struct{}) *peer {
	key := signature(ns.name, set, ports, blocks)
	if id, ok := m.identities[key]; ok {
		return id
	}
	id := m.newPeer(bpfPolicyKindPOLICY_KIND_IDENTITY, ns)
	id.signature, id.labels, id.ports, id.blocks = key, set, ports, blocks
	id.claims = map[claim]struct{}{}
	m.identities[key] = id
	ns.identities[id] = struct{}{}
	m.dirty.peers[id] = struct{}{}
	return id
}

func (m *model) release(id *peer) {
	id.users--
	m.released.identities[id] = struct{}{}
}

// credit gives an address to the identity of its owner.
func (m *model) credit(at claim) {
	var now *peer
	if o := m.owner(at); o != nil {
		now = o.identities[at]
	}
	if before := m.credited[at]; before != nil {
		delete(before.claims, at)
	}
	delete(m.credited, at)
	if now != nil {
		now.claims[at] = struct{}{}
		m.credited[at] = now
	}
	m.dirty.claims[at] = struct{}{}
}

// join puts a pod into its group of one direction.
func (m *model) join(p *pod, d Direction) {
	var policies []types.NamespacedName
	asked := map[namedPort]int{}
	for policy := range p.selectedBy {
		if !policy.isolates[d] {
			continue
		}
		policies = append(policies, policy.name)
		for _, r := range policy.rules[d] {
			for _, name := range r.named {
				asked[name]++
			}
		}
	}
	var g *group
	if len(policies) > 0 && len(p.identities) > 0 {
		slices.SortFunc(policies, compareNames)
		var ports map[namedPort]uint16
		if d == Ingress {
			ports = resolve(asked, p.Ports)
		}
		g = m.groupOf(d, policies, ports)
	}
	if g == p.groups[d] {
		return
	}
	if before := p.groups[d]; before != nil {
		before.pods--
		m.released.groups[before] = struct{}{}
	}
	if g != nil {
		g.pods++
	}
	p.groups[d] = g
	for at := range p.identities {
		m.dirty.claims[at] = struct{}{}
	}
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (m *model) groupOf(d Direction, policies []types.NamespacedName, ports map[namedPort]uint16) *group {
	key := groupKey(policies, ports)
	if g, ok := m.groups[d][key]; ok {
		return g
	}
	m.lastGroup++
	g := &group{
		id: m.lastGroup, key: key, direction: d, policies: policies, ports: ports, whole: true,
		grants: map[*peer][]portKey{}, blocks: map[netip.Prefix]*peer{},
	}
	m.groups[d][key] = g
	for _, name := range policies {
		if m.groupsOf[name] == nil {
			m.groupsOf[name] = map[*group]struct{}{}
		}
		m.groupsOf[name][g] = struct{}{}
	}
	m.dirty.groups[g] = struct{}{}
	return g
}

// regrantAll compares all that a group grants with what it should.
func (m *model) regrantAll(c *changes, g *group) {
	m.settleBlocks(c, g)
	candidates := m.candidates(g)
	for p := range g.grants {
		candidates[p] = struct{}{}
	}
	for _, p := range g.blocks {
		candidates[p] = struct{}{}
	}
	for p := range candidates {
		m.regrant(c, g, p)
	}
	if g.whole {
		m.writeWhole(c, g)
	}
	m.writeMask(c, g)
}

// settleBlocks finds the prefixes of a group.
func (m *model) settleBlocks(c *changes, g *group) {
	wanted := map[netip.Prefix]struct{}{}
	for _, b := range m.blocksOf(g) {
		for _, prefix := range b.prefixes() {
			wanted[prefix] = struct{}{}
		}
	}
	for prefix := range wanted {
		if _, ok := g.blocks[prefix]; ok {
			continue
		}
		p := m.newPeer(bpfPolicyKindPOLICY_KIND_BLOCK, nil)
		p.prefix = prefix
		g.blocks[prefix] = p
		if !g.whole {
			c.blocks = append(c.blocks, blockEntry{blockKey(g, prefix), p.id})
		}
	}
	for prefix, p := range g.blocks {
		if _, ok := wanted[prefix]; ok {
			continue
		}
		c.blocksGone = append(c.blocksGone, blockKey(g, prefix))
		delete(g.blocks, prefix)
		m.replaceGrants(c, g, p, nil)
	}
}

// regrant compares what a group grants a peer with what it should, and says
// whether that differed.
func (m *model) regrant(c *changes, g *group, p *peer) bool {
	if p.kind == bpfPolicyKindPOLICY_KIND_BLOCK && g.blocks[p.prefix] != p {
		return false
	}
	return m.replaceGrants(c, g, p, m.grantsOf(g, p))
}

func (m *model) replaceGrants(c *changes, g *group, p *peer, now []portKey) bool {
	before := g.grants[p]
	if slices.Equal(before, now) {
		return false
	}
	for _, k := range now {
		if slices.Contains(before, k) {
			continue
		}
		g.count[p.kind][k.bit()]++
		if !g.whole {
			c.rules = append(c.rules, ruleEntry{ruleKey(g, p, k), p.kind})
		}
	}
	for _, k := range before {
		if slices.Contains(now, k) {
			continue
		}
		g.count[p.kind][k.bit()]--
		c.rulesGone = append(c.rulesGone, ruleKey(g, p, k))
	}
	if len(now) == 0 {
		delete(g.grants, p)
	} else {
		g.grants[p] = now
	}
	switch {
	case len(before) == 0:
		p.uses++
		m.useChanged(p, p.uses == 1)
	case len(now) == 0:
		p.uses--
		m.useChanged(p, p.uses == 0)
	}
	return true
}

// useChanged looks at a peer's addresses again if it got its first use or
// lost its last.
func (m *model) useChanged(p *peer, changed bool) {
	if !changed {
		return
	}
	touch := func(id *peer) {
		for at := range id.claims {
			m.dirty.claims[at] = struct{}{}
		}
	}
	switch p.kind {
	case bpfPolicyKindPOLICY_KIND_IDENTITY:
		touch(p)
	case bpfPolicyKindPOLICY_KIND_NAMESPACE:
		for id := range p.namespace.identities {
			touch(id)
		}
	case bpfPolicyKindPOLICY_KIND_POD:
		for _, id := range m.identities {
			touch(id)
		}
	}
}

// writeWhole writes all of a group, whatever was written before.
func (m *model) writeWhole(c *changes, g *group) {
	for p, all := range g.grants {
		for _, k := range all {
			c.rules = append(c.rules, ruleEntry{ruleKey(g, p, k), p.kind})
		}
	}
	for prefix, p := range g.blocks {
		c.blocks = append(c.blocks, blockEntry{blockKey(g, prefix), p.id})
	}
}

// writeMask tells readers where to look: while rules come and go, for those
// of before and after.
func (m *model) writeMask(c *changes, g *group) {
	var now, both bpfPolicyGroup
	for kind := range g.count {
		for bit, n := range g.count[kind] {
			if n > 0 {
				now.Ports[kind] |= 1 << bit
			}
		}
		both.Ports[kind] = now.Ports[kind] | g.mask.Ports[kind]
	}
	if g.whole || both != g.mask {
		c.groups = append(c.groups, groupEntry{g.id, both})
	}
	if now != both {
		c.narrowed = append(c.narrowed, groupEntry{g.id, now})
	}
	g.mask, g.whole = now, false
}

// dropGroup removes a group that no pod is in.
func (m *model) dropGroup(c *changes, g *group) {
	if g.pods > 0 || m.groups[g.direction][g.key] != g {
		return
	}
	delete(m.groups[g.direction], g.key)
	for _, name := range g.policies {
		delete(m.groupsOf[name], g)
		if len(m.groupsOf[name]) == 0 {
			delete(m.groupsOf, name)
		}
	}
	for p := range g.grants {
		m.replaceGrants(c, g, p, nil)
	}
	for prefix := range g.blocks {
		c.blocksGone = append(c.blocksGone, blockKey(g, prefix))
	}
	c.groupsGone = append(c.groupsGone, g.id)
}

// dropIdentity removes an identity that no pod has.
func (m *model) dropIdentity(c *changes, id *peer) {
	if m.identities[id.signature] != id || id.users > 0 {
		return
	}
	delete(m.identities, id.signature)
	delete(id.namespace.identities, id)
	if id.uses > 0 {
		for _, groups := range m.groups {
			for _, g := range groups {
				if _, ok := g.grants[id]; ok {
					m.replaceGrants(c, g, id, nil)
					m.writeMask(c, g)
				}
			}
		}
	}
	m.released.namespaces[id.namespace] = struct{}{}
}

// dropNamespace forgets a namespace that is gone with all that was in it.
func (m *model) dropNamespace(ns *namespace) {
	if ns.known {
		delete(m.released.namespaces, ns)
		return
	}
	if len(ns.pods)+len(ns.identities)+len(ns.policies)+ns.peer.uses > 0 {
		return
	}
	delete(m.namespaces, ns.name)
	delete(m.released.namespaces, ns)
}
