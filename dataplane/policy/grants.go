package policy

import (
	"cmp"
	"slices"
)

// grants are the ports that a group grants a peer, sorted, each once.
func (m *model) grantsOf(g *group, p *peer) []portKey {
	var out []portKey
	for _, name := range g.policies {
		policy := m.policies[name]
		if policy == nil {
			continue
		}
		for i := range policy.rules[g.direction] {
			out = policy.rules[g.direction][i].grant(out, name.Namespace, g, p)
		}
	}
	slices.SortFunc(out, func(a, b portKey) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.bits, b.bits), cmp.Compare(a.port, b.port))
	})
	out = slices.Compact(out)
	if len(out) > 0 && out[0] == (portKey{}) {
		// Everything is in it.
		return out[:1]
	}
	return out
}

// grant adds to out what a rule of a namespace's policy grants a peer.
func (r *rule) grant(out []portKey, namespace string, g *group, p *peer) []portKey {
	if r.names(namespace, p) {
		if r.everything {
			out = append(out, portKey{})
		}
		out = append(out, r.ports...)
		if g.direction == Ingress {
			for _, name := range r.named {
				out = appendPort(out, name, g.ports)
			}
		}
	}
	// On the way out a named port is the called pod's, who may be named as
	// anything.
	if g.direction == Egress && len(r.named) > 0 && p.kind == bpfPolicyKindPOLICY_KIND_IDENTITY && r.includes(namespace, p) {
		for _, name := range r.named {
			out = appendPort(out, name, p.ports)
		}
	}
	return out
}

func appendPort(out []portKey, name namedPort, ports map[namedPort]uint16) []portKey {
	number, ok := ports[name]
	if !ok {
		return out
	}
	return append(out, portKey{protocol: name.protocol, port: number, bits: 16})
}

// names says whether the rule has the peer as such. What is several peers at
// once is granted something as one of them.
func (r *rule) names(namespace string, p *peer) bool {
	if p.kind == bpfPolicyKindPOLICY_KIND_ANY {
		return r.everybody
	}
	return slices.ContainsFunc(r.peers, func(pr peerRule) bool {
		if pr.block != nil {
			return p.kind == bpfPolicyKindPOLICY_KIND_BLOCK && pr.block.holds(p.prefix)
		}
		everywhere := pr.namespaces != nil && pr.namespaces.Empty()
		switch p.kind {
		case bpfPolicyKindPOLICY_KIND_POD:
			return pr.pods == nil && everywhere
		case bpfPolicyKindPOLICY_KIND_NAMESPACE:
			return pr.pods == nil && !everywhere && pr.holdsNamespace(namespace, p.namespace)
		case bpfPolicyKindPOLICY_KIND_IDENTITY:
			return pr.pods != nil && pr.holdsNamespace(namespace, p.namespace) && pr.pods.Matches(p.labels)
		}
		return false
	})
}

// includes says whether the rule has an identity in any way.
func (r *rule) includes(namespace string, p *peer) bool {
	return r.everybody || slices.ContainsFunc(r.peers, func(pr peerRule) bool {
		if pr.block != nil {
			_, held := p.blocks[pr.block.text]
			return held
		}
		return pr.holdsNamespace(namespace, p.namespace) && (pr.pods == nil || pr.pods.Matches(p.labels))
	})
}

func (pr *peerRule) holdsNamespace(own string, ns *namespace) bool {
	if pr.namespaces == nil {
		return ns.name == own
	}
	return pr.namespaces.Empty() || ns.known && pr.namespaces.Matches(ns.labels)
}

// looksAt says whether a group's rules might grant a peer something, which
// for most identities in a large cluster they might not.
func (g *group) looksAt(p *peer) bool {
	if p.kind != bpfPolicyKindPOLICY_KIND_IDENTITY || g.wide || g.policies[0].Namespace == p.namespace.name {
		return true
	}
	return len(g.grants[p]) > 0
}

// candidates are the peers, without blocks, that a group's rules may name:
// to ask about all of a large cluster takes long. It also finds whether the
// group is wide.
func (m *model) candidates(g *group) map[*peer]struct{} {
	out := map[*peer]struct{}{m.any: {}, m.anyPod: {}}
	g.wide = false
	identities := func(of map[*peer]struct{}) {
		for id := range of {
			out[id] = struct{}{}
		}
	}
	for _, name := range g.policies {
		policy := m.policies[name]
		if policy == nil {
			continue
		}
		for _, r := range policy.rules[g.direction] {
			// Named ports on the way out are granted to identities.
			named := g.direction == Egress && len(r.named) > 0
			if named && (r.everybody || slices.ContainsFunc(r.peers, func(pr peerRule) bool { return pr.block != nil })) {
				g.wide = true
				for _, ns := range m.namespaces {
					identities(ns.identities)
				}
			}
			for _, pr := range r.peers {
				if pr.block != nil {
					continue
				}
				oneByOne := named || pr.pods != nil
				g.wide = g.wide || oneByOne && pr.namespaces != nil
				for _, ns := range m.scope(name.Namespace, &pr) {
					out[ns.peer] = struct{}{}
					if oneByOne {
						identities(ns.identities)
					}
				}
			}
		}
	}
	return out
}

// scope are the namespaces that a peer of a rule looks into.
func (m *model) scope(own string, pr *peerRule) map[string]*namespace {
	if pr.namespaces != nil {
		return m.namespaces
	}
	if ns, ok := m.namespaces[own]; ok {
		return map[string]*namespace{own: ns}
	}
	return nil
}

// blocksOf are the prefixes that a group's rules name.
func (m *model) blocksOf(g *group) []*block {
	var out []*block
	for _, name := range g.policies {
		policy := m.policies[name]
		if policy == nil {
			continue
		}
		for _, r := range policy.rules[g.direction] {
			for _, peer := range r.peers {
				if peer.block != nil {
					out = append(out, peer.block)
				}
			}
		}
	}
	return out
}
