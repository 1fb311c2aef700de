package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// Explanation is which policies and rules decide about a packet.
type Explanation struct {
	Allowed bool
	// Exempt says why no policy is asked; empty: they are.
	Exempt string
	// Egress is what the sender's policies say, Ingress what the receiver's;
	// nil where that end is no pod.
	Egress, Ingress *Judgement
}

// Judgement is one end's.
type Judgement struct {
	Pod     types.NamespacedName
	Allowed bool
	// Policies isolate the pod in this direction; without one all is allowed.
	Policies []types.NamespacedName
	// AllowedBy are the rules that allow the packet.
	AllowedBy []RuleRef
}

// RuleRef names a rule: spec.ingress[Index] or spec.egress[Index] of Policy.
type RuleRef struct {
	Policy types.NamespacedName
	Index  int
}

// Why a packet is not judged.
const (
	ExemptSelf = "a pod reaches itself"
	ExemptNode = "a pod's own node always reaches it"
)

// Explain says whether a packet that opens a flow passes, and why. It reads
// the API's objects one by one.
func Explain(w World, p Packet) Explanation {
	from, to := w.podAt(p.Src, p.Protocol, 0), w.podAt(p.Dst, p.Protocol, p.Port)
	switch {
	case p.Src == p.Dst:
		return Explanation{Allowed: true, Exempt: ExemptSelf}
	case from == nil && to != nil && slices.Contains(w.Nodes[to.Node], p.Src):
		return Explanation{Allowed: true, Exempt: ExemptNode}
	}
	e := Explanation{Allowed: true}
	if from != nil {
		e.Egress = w.judge(Egress, *from, p.Dst, to, p)
		e.Allowed = e.Egress.Allowed
	}
	if to != nil && len(to.Only) == 0 {
		e.Ingress = w.judge(Ingress, *to, p.Src, from, p)
		e.Allowed = e.Allowed && e.Ingress.Allowed
	}
	return e
}

// podAt is the pod with an address, called at a port (0: the caller).
func (w World) podAt(addr netip.Addr, proto inet.Protocol, called uint16) *Pod {
	for i := range w.Pods {
		p := &w.Pods[i]
		if !slices.Contains(p.Addrs, addr) {
			continue
		}
		if len(p.Only) == 0 || slices.ContainsFunc(p.Only, func(o Port) bool { return o.Protocol == proto && o.Number == called }) {
			return p
		}
	}
	return nil
}

func (w World) judge(d Direction, pod Pod, addr netip.Addr, peer *Pod, p Packet) *Judgement {
	j := &Judgement{Pod: pod.Name}
	for _, policy := range w.Policies {
		if policy.Namespace != pod.Name.Namespace || !isolates(policy, d) || !selects(&policy.Spec.PodSelector, pod.Labels) {
			continue
		}
		name := types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name}
		j.Policies = append(j.Policies, name)
		for i, rule := range apiRules(policy, d) {
			// A named port is the called pod's.
			called := &pod
			if d == Egress {
				called = peer
			}
			if w.peersMatch(policy.Namespace, rule.peers, addr, peer) && portsMatch(rule.ports, called, p) {
				j.AllowedBy = append(j.AllowedBy, RuleRef{Policy: name, Index: i})
			}
		}
	}
	j.Allowed = len(j.Policies) == 0 || len(j.AllowedBy) > 0
	return j
}

// apiRule is an ingress or an egress rule.
type apiRule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func apiRules(p *networkingv1.NetworkPolicy, d Direction) []apiRule {
	var out []apiRule
	if d == Ingress {
		for _, r := range p.Spec.Ingress {
			out = append(out, apiRule{r.From, r.Ports})
		}
		return out
	}
	for _, r := range p.Spec.Egress {
		out = append(out, apiRule{r.To, r.Ports})
	}
	return out
}

func (w World) peersMatch(namespace string, peers []networkingv1.NetworkPolicyPeer, addr netip.Addr, pod *Pod) bool {
	if len(peers) == 0 {
		return true
	}
	return slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		switch {
		case p.IPBlock != nil:
			return inBlock(p.IPBlock, addr)
		case pod == nil || p.PodSelector == nil && p.NamespaceSelector == nil:
			return false
		}
		if p.NamespaceSelector == nil {
			if pod.Name.Namespace != namespace {
				return false
			}
		} else if labels, exists := w.Namespaces[pod.Name.Namespace]; !selects(p.NamespaceSelector, labels) ||
			// An object that was not seen yet may have any label.
			!exists && len(p.NamespaceSelector.MatchLabels)+len(p.NamespaceSelector.MatchExpressions) > 0 {
			return false
		}
		return p.PodSelector == nil || selects(p.PodSelector, pod.Labels)
	})
}

func inBlock(b *networkingv1.IPBlock, addr netip.Addr) bool {
	cidr, err := parseCIDR(b.CIDR)
	if err != nil || !cidr.Contains(addr) {
		return false
	}
	return !slices.ContainsFunc(b.Except, func(e string) bool {
		except, err := parseCIDR(e)
		return err != nil || except.Contains(addr)
	})
}

func portsMatch(ports []networkingv1.NetworkPolicyPort, called *Pod, p Packet) bool {
	if len(ports) == 0 {
		return true
	}
	return slices.ContainsFunc(ports, func(np networkingv1.NetworkPolicyPort) bool {
		proto := inet.ProtocolOf(ptr.Deref(np.Protocol, ""))
		switch {
		case proto == 0 || proto != p.Protocol:
			return false
		case np.Port == nil:
			return true
		case np.Port.Type == intstr.String:
			return called != nil && portNamed(called.Ports, np.Port.StrVal, proto) == p.Port && p.Port != 0
		case np.EndPort != nil:
			return int32(p.Port) >= np.Port.IntVal && int32(p.Port) <= *np.EndPort
		}
		return int32(p.Port) == np.Port.IntVal
	})
}

// portNamed is the number of a named port, or 0.
func portNamed(ports []Port, name string, proto inet.Protocol) uint16 {
	for _, p := range ports {
		if p.Name == name && p.Protocol == proto {
			return p.Number
		}
	}
	return 0
}

// selects says whether a selector matches; one that is not valid does not.
func selects(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

// podOf reads a Pod; nil if it has no addresses of its own, or never will
// have again: on the host's network, or ended.
func podOf(p *corev1.Pod) *Pod {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	out := &Pod{
		Name:   types.NamespacedName{Namespace: p.Namespace, Name: p.Name},
		UIDs:   []types.UID{p.UID},
		Labels: p.Labels,
		Node:   p.Spec.NodeName,
	}
	if hash := p.Annotations[corev1.MirrorPodAnnotationKey]; hash != "" {
		out.UIDs = append(out.UIDs, types.UID(hash))
	}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addrs = append(out.Addrs, addr.Unmap())
		}
	}
	out.Ports = namedPorts(p.Spec.Containers, out.Ports)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out.Ports = namedPorts([]corev1.Container{c}, out.Ports)
		}
	}
	return out
}

func namedPorts(containers []corev1.Container, to []Port) []Port {
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name != "" && p.ContainerPort > 0 && p.ContainerPort <= 65535 {
				to = append(to, Port{Name: p.Name, Protocol: inet.ProtocolOf(p.Protocol), Number: uint16(p.ContainerPort)})
			}
		}
	}
	return to
}
