package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// model is what the API's objects say about the pods of one node, and what of
// it the kernel's maps hold. Its methods take changes in; commit works out
// what they mean. It does no I/O.
type model struct {
	node       string
	policies   map[types.NamespacedName]*policy
	namespaces map[string]*namespace
	pods       map[types.NamespacedName]*pod
	// attached are the addresses of this node's pods that the pod network has
	// told, by pod; they are known before the Pod's status.
	attached map[types.NamespacedName]attachment

	// any and anyPod are the peers without addresses of their own.
	any, anyPod *peer
	// identities are by what selectors see of a pod.
	identities map[string]*peer
	// groups are by their policies' names, and what the pod's ports resolve
	// the policies' named ones to.
	groups [2]map[string]*group
	// groupsOf are the groups that a policy is in.
	groupsOf map[types.NamespacedName]map[*group]struct{}
	// claims are the pods that have an address, or had it and are not yet
	// known to be gone; the last one counts.
	claims map[claim][]*pod
	// credited are the identities of the owners.
	credited map[claim]*peer

	// words are what policies ask of other pods: no identity is told apart by
	// anything else.
	words vocabulary

	lastPeer, lastGroup uint32

	// What commit has to look at.
	dirty struct {
		vocabulary bool
		pods       map[*pod]struct{}
		groups     map[*group]struct{}
		peers      map[*peer]struct{}
		claims     map[claim]struct{}
	}
	// released may have lost their last user. Namespaces stay here until they
	// have.
	released struct {
		groups     map[*group]struct{}
		identities map[*peer]struct{}
		namespaces map[*namespace]struct{}
	}

	// What the maps hold, beside the rules and blocks that groups have.
	podEntries  map[netip.Addr]bpfPolicyPod
	peerEntries map[claim]bpfPolicyPeer
}

// claim is an address, or one only where a port of it is called.
type claim struct {
	addr  netip.Addr
	port  uint16
	proto inet.Protocol
}

type attachment struct {
	uid   types.UID
	addrs []netip.Addr
}

type namespace struct {
	name string
	// known: the object was seen; without it no selector selects it.
	known      bool
	labels     labels.Set
	peer       *peer
	policies   map[types.NamespacedName]*policy
	pods       map[*pod]struct{}
	identities map[*peer]struct{}
}

// pod is a Pod and what it means at the moment.
type pod struct {
	Pod
	namespace *namespace
	// identities are by the addresses that the pod claims.
	identities map[claim]*peer
	// selectedBy are the policies that select a pod of this node.
	selectedBy map[*policy]struct{}
	groups     [2]*group
}

// peer is one that rules may name.
type peer struct {
	id        uint32
	kind      bpfPolicyKind
	namespace *namespace // of namespaces and identities

	// Of identities: what selectors in use see, and who it is.
	signature string
	labels    labels.Set
	ports     map[namedPort]uint16
	blocks    map[string]struct{} // the texts of those that hold the address
	claims    map[claim]struct{}
	// users counts the pods' addresses that have it, also those that another
	// pod has now.
	users int

	// prefix is of blocks.
	prefix netip.Prefix

	// uses counts the groups that grant it something.
	uses int
}

// group is the pods of this node that the same policies select in one
// direction.
type group struct {
	id        uint32
	key       string
	direction Direction
	policies  []types.NamespacedName
	// ports resolve named ports of ingress rules: they are the group's pods'.
	ports map[namedPort]uint16
	pods  int
	// wide: there are rules that look at pods of other namespaces one by one.
	wide bool

	// What the maps hold.
	grants map[*peer][]portKey
	blocks map[netip.Prefix]*peer
	count  [bpfPolicyKindPOLICY_KINDS][allProtocolsBit + 1]int
	mask   bpfPolicyGroup
	// whole: written not at all or in part; all of it is to be written.
	whole bool
}

func newModel(node string) *model {
	m := &model{
		node:        node,
		policies:    map[types.NamespacedName]*policy{},
		namespaces:  map[string]*namespace{},
		pods:        map[types.NamespacedName]*pod{},
		attached:    map[types.NamespacedName]attachment{},
		any:         &peer{id: uint32(bpfPolicyPeerNumberPOLICY_PEER_ANY), kind: bpfPolicyKindPOLICY_KIND_ANY},
		anyPod:      &peer{id: uint32(bpfPolicyPeerNumberPOLICY_PEER_POD), kind: bpfPolicyKindPOLICY_KIND_POD},
		groupsOf:    map[types.NamespacedName]map[*group]struct{}{},
		claims:      map[claim][]*pod{},
		credited:    map[claim]*peer{},
		words:       newVocabulary(),
		lastPeer:    uint32(bpfPolicyPeerNumberPOLICY_PEER_FIRST),
		podEntries:  map[netip.Addr]bpfPolicyPod{},
		peerEntries: map[claim]bpfPolicyPeer{},
		identities:  map[string]*peer{},
		groups:      [2]map[string]*group{{}, {}},
	}
	m.dirty.pods, m.dirty.groups = map[*pod]struct{}{}, map[*group]struct{}{}
	m.dirty.peers, m.dirty.claims = map[*peer]struct{}{}, map[claim]struct{}{}
	m.released.groups, m.released.identities = map[*group]struct{}{}, map[*peer]struct{}{}
	m.released.namespaces = map[*namespace]struct{}{}
	return m
}

func (m *model) newPeer(kind bpfPolicyKind, ns *namespace) *peer {
	m.lastPeer++
	return &peer{id: m.lastPeer, kind: kind, namespace: ns}
}

// in returns a namespace's entry, known or not.
func (m *model) in(name string) *namespace {
	ns, ok := m.namespaces[name]
	if !ok {
		ns = &namespace{
			name: name, policies: map[types.NamespacedName]*policy{},
			pods: map[*pod]struct{}{}, identities: map[*peer]struct{}{},
		}
		ns.peer = m.newPeer(bpfPolicyKindPOLICY_KIND_NAMESPACE, ns)
		m.namespaces[name] = ns
		m.dirty.peers[ns.peer] = struct{}{}
	}
	return ns
}

// isolated counts the addresses of isolated pods.
func (m *model) isolated() int { return len(m.podEntries) }

func (m *model) setPolicy(p *policy) {
	m.replacePolicy(p.name, p)
}

func (m *model) deletePolicy(name types.NamespacedName) {
	m.replacePolicy(name, nil)
}

// replacePolicy takes a policy in the place of the one of that name; nil: of
// none.
func (m *model) replacePolicy(name types.NamespacedName, now *policy) {
	ns := m.in(name.Namespace)
	before := m.policies[name]
	if before != nil {
		delete(m.policies, name)
		delete(ns.policies, name)
	}
	if now != nil {
		m.policies[name] = now
		ns.policies[name] = now
	} else {
		m.released.namespaces[ns] = struct{}{}
	}
	if m.words.replace(before, now) {
		m.dirty.vocabulary = true
	}
	for g := range m.groupsOf[name] {
		m.dirty.groups[g] = struct{}{}
	}
	for p := range ns.pods {
		if !m.isLocal(p) {
			continue
		}
		_, selected := p.selectedBy[before]
		selects := now != nil && now.selector.Matches(labels.Set(p.Labels))
		if selected {
			delete(p.selectedBy, before)
		}
		if selects {
			p.selectedBy[now] = struct{}{}
		}
		if selected || selects {
			m.dirty.pods[p] = struct{}{}
		}
	}
}

func (m *model) setNamespace(name string, set map[string]string) {
	ns := m.in(name)
	if ns.known && maps.Equal(ns.labels, set) {
		return
	}
	ns.known, ns.labels = true, set
	m.touchNamespace(ns)
}

func (m *model) deleteNamespace(name string) {
	ns, ok := m.namespaces[name]
	if !ok {
		return
	}
	ns.known, ns.labels = false, nil
	m.released.namespaces[ns] = struct{}{}
	m.touchNamespace(ns)
}

// touchNamespace asks all rules again about a namespace and its pods.
func (m *model) touchNamespace(ns *namespace) {
	m.dirty.peers[ns.peer] = struct{}{}
	for i := range ns.identities {
		m.dirty.peers[i] = struct{}{}
	}
}

func (m *model) setPod(now Pod) {
	p, ok := m.pods[now.Name]
	if !ok {
		p = &pod{namespace: m.in(now.Name.Namespace), identities: map[claim]*peer{}, selectedBy: map[*policy]struct{}{}}
		p.namespace.pods[p] = struct{}{}
		m.pods[now.Name] = p
	} else if samePod(p.Pod, now) {
		return
	}
	p.Pod = now
	m.dirty.pods[p] = struct{}{}
	m.choosePolicies(p)
}

func samePod(a, b Pod) bool {
	return a.Node == b.Node && maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Addrs, b.Addrs) &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.UIDs, b.UIDs) && slices.Equal(a.Only, b.Only)
}

// choosePolicies finds the policies that select a pod of this node.
func (m *model) choosePolicies(p *pod) {
	clear(p.selectedBy)
	if !m.isLocal(p) {
		return
	}
	for _, policy := range p.namespace.policies {
		if policy.selector.Matches(labels.Set(p.Labels)) {
			p.selectedBy[policy] = struct{}{}
		}
	}
}

func (m *model) isLocal(p *pod) bool {
	return p.Node == m.node && len(p.Only) == 0
}

func (m *model) deletePod(name types.NamespacedName) {
	p, ok := m.pods[name]
	if !ok {
		return
	}
	delete(m.pods, name)
	delete(p.namespace.pods, p)
	m.released.namespaces[p.namespace] = struct{}{}
	clear(p.selectedBy)
	p.Addrs, p.Node = nil, ""
	m.dirty.pods[p] = struct{}{}
}

// attach notes the addresses of a pod of this node. It says whether the pod
// is known to be of this node, so that they count.
func (m *model) attach(name types.NamespacedName, uid types.UID, addrs []netip.Addr) bool {
	m.attached[name] = attachment{uid, addrs}
	p, ok := m.pods[name]
	if !ok || !m.isLocal(p) || !slices.Contains(p.UIDs, uid) {
		return false
	}
	m.dirty.pods[p] = struct{}{}
	return true
}

// detach forgets the pod that has these addresses, if it still has.
func (m *model) detach(addrs []netip.Addr) {
	for name, a := range m.attached {
		if !slices.Equal(a.addrs, addrs) {
			continue
		}
		delete(m.attached, name)
		if p, ok := m.pods[name]; ok {
			m.dirty.pods[p] = struct{}{}
		}
	}
}

// addresses are those that count: where the pod network has told them, the
// status may be old.
func (m *model) addresses(p *pod) []netip.Addr {
	if a, ok := m.attached[p.Name]; ok && m.isLocal(p) && slices.Contains(p.UIDs, a.uid) {
		return a.addrs
	}
	return p.Addrs
}

// claimsOf are the addresses of a pod, by port if it has only some.
func (m *model) claimsOf(p *pod) []claim {
	var out []claim
	for _, addr := range m.addresses(p) {
		if len(p.Only) == 0 {
			out = append(out, claim{addr: addr})
		}
		for _, o := range p.Only {
			out = append(out, claim{addr: addr, port: o.Number, proto: o.Protocol})
		}
	}
	return out
}

// owner is the pod whose address it is.
func (m *model) owner(c claim) *pod {
	all := m.claims[c]
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// groupKey identifies a group: names hold neither of the separators.
func groupKey(policies []types.NamespacedName, ports map[namedPort]uint16) string {
	var b strings.Builder
	for _, name := range policies {
		b.WriteString(name.String())
		b.WriteByte(' ')
	}
	for _, name := range sortedPorts(ports) {
		writePort(&b, name, ports[name])
	}
	return b.String()
}
