package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// policy is a NetworkPolicy, ready to be asked.
type policy struct {
	name     types.NamespacedName
	uid      types.UID
	selector labels.Selector
	isolates [2]bool
	rules    [2][]rule
	// problems are fields that are not valid and match nothing.
	problems []string
}

// rule is one ingress or egress rule.
type rule struct {
	// everybody: no peers are named.
	everybody bool
	peers     []peerRule
	// everything: no ports are named.
	everything bool
	ports      []portKey
	named      []namedPort
}

// peerRule is one peer of a rule.
type peerRule struct {
	// block is set or the rest is.
	block *block
	// namespaces nil: the policy's own.
	namespaces labels.Selector
	// pods nil: all.
	pods labels.Selector
}

// block is an ipBlock.
type block struct {
	// text identifies it.
	text   string
	cidr   netip.Prefix
	except []netip.Prefix
}

// namedPort is a port that each pod resolves by itself.
type namedPort struct {
	name     string
	protocol inet.Protocol
}

// portKey is a prefix of ports of a protocol; the zero value is everything,
// protocol and no bits are all ports of it.
type portKey struct {
	protocol inet.Protocol
	port     uint16
	bits     uint8
}

// newPolicy reads a NetworkPolicy. What is not valid in it, which the API
// server refuses, matches nothing.
func newPolicy(np *networkingv1.NetworkPolicy) *policy {
	p := &policy{name: types.NamespacedName{Namespace: np.Namespace, Name: np.Name}, uid: np.UID}
	p.selector = p.parse("spec.podSelector", &np.Spec.PodSelector)
	for _, d := range []Direction{Ingress, Egress} {
		p.isolates[d] = isolates(np, d)
		if !p.isolates[d] {
			continue
		}
		for i, r := range apiRules(np, d) {
			p.rules[d] = append(p.rules[d], p.newRule(fmt.Sprintf("spec.%s[%d]", strings.ToLower(d.String()), i), r))
		}
	}
	return p
}

func (p *policy) parse(field string, s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		p.problems = append(p.problems, fmt.Sprintf("%s: %v", field, err))
		return labels.Nothing()
	}
	return selector
}

func (p *policy) newRule(field string, r apiRule) rule {
	out := rule{everybody: len(r.peers) == 0, everything: len(r.ports) == 0}
	for i, peer := range r.peers {
		field := fmt.Sprintf("%s.peers[%d]", field, i)
		var pr peerRule
		switch {
		case peer.IPBlock != nil:
			b, err := newBlock(peer.IPBlock)
			if err != nil {
				p.problems = append(p.problems, fmt.Sprintf("%s.ipBlock: %v", field, err))
				continue
			}
			pr.block = b
		case peer.PodSelector == nil && peer.NamespaceSelector == nil:
			p.problems = append(p.problems, field+": names no peer")
			continue
		}
		if peer.NamespaceSelector != nil && pr.block == nil {
			pr.namespaces = p.parse(field+".namespaceSelector", peer.NamespaceSelector)
		}
		if peer.PodSelector != nil && pr.block == nil {
			if pods := p.parse(field+".podSelector", peer.PodSelector); !pods.Empty() {
				pr.pods = pods
			}
		}
		out.peers = append(out.peers, pr)
	}
	for _, port := range r.ports {
		proto := inet.ProtocolOf(ptr.Deref(port.Protocol, ""))
		switch {
		case proto == 0:
			p.problems = append(p.problems, fmt.Sprintf("%s.ports: protocol %s is not known", field, *port.Protocol))
		case port.Port == nil:
			out.ports = append(out.ports, portKey{protocol: proto})
		case port.Port.Type == intstr.String:
			out.named = append(out.named, namedPort{port.Port.StrVal, proto})
		default:
			last := port.Port.IntVal
			if port.EndPort != nil {
				last = *port.EndPort
			}
			out.ports = append(out.ports, portPrefixes(proto, port.Port.IntVal, last)...)
		}
	}
	return out
}

func newBlock(b *networkingv1.IPBlock) (*block, error) {
	cidr, err := parseCIDR(b.CIDR)
	if err != nil {
		return nil, err
	}
	out := &block{text: b.CIDR + " - " + strings.Join(b.Except, " "), cidr: cidr}
	for _, e := range b.Except {
		except, err := parseCIDR(e)
		if err != nil {
			return nil, fmt.Errorf("except: %w", err)
		}
		out.except = append(out.except, except)
	}
	return out, nil
}

// holds says whether all of a prefix, or nothing but addresses of longer
// known prefixes, is in the block.
func (b *block) holds(p netip.Prefix) bool {
	inside := func(outer netip.Prefix) bool { return outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) }
	return inside(b.cidr) && !slices.ContainsFunc(b.except, inside)
}

// prefixes are the block's own.
func (b *block) prefixes() []netip.Prefix { return append([]netip.Prefix{b.cidr}, b.except...) }

// parseCIDR reads a CIDR as the API server does, leading zeros included.
func parseCIDR(text string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, ones), nil
}

// portPrefixes cuts a range of ports into prefixes, 30 at most.
func portPrefixes(proto inet.Protocol, first, last int32) []portKey {
	var out []portKey
	first, last = max(first, 0), min(last, 65535)
	for first <= last {
		size := int32(1)
		bits := uint8(16)
		// The largest power of two that begins here and does not go too far.
		for bits > 0 && first%(2*size) == 0 && first+2*size-1 <= last {
			size *= 2
			bits--
		}
		out = append(out, portKey{protocol: proto, port: uint16(first), bits: bits})
		first += size
	}
	return out
}
