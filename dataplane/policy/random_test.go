package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// dice makes small worlds in which rules, pods and packets often meet.
type dice struct{ *rand.Rand }

func pick[T any](d dice, all ...T) T { return all[d.IntN(len(all))] }

func (d dice) coin() bool { return d.IntN(2) == 0 }

func (d dice) labels() map[string]string {
	out := map[string]string{}
	for _, key := range []string{"app", "tier", "hash"} {
		if d.IntN(3) > 0 {
			out[key] = pick(d, "a", "b", "c")
		}
	}
	return out
}

func (d dice) namespace() string    { return pick(d, "x", "y", "z") }
func (d dice) proto() inet.Protocol { return pick(d, inet.TCP, inet.UDP, inet.SCTP) }
func (d dice) port() uint16         { return pick[uint16](d, 53, 80, 81, 8080, 8443) }

// addr is one of few, of both families; the last octet is the pod's.
func (d dice) addr(pod int) netip.Addr {
	if d.IntN(3) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", pod+1))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", pod%2, pod+1))
}

var nodeNames = []string{"n0", "n1"}

func (d dice) pod(i int) Pod {
	p := Pod{
		Name:   types.NamespacedName{Namespace: d.namespace(), Name: fmt.Sprintf("pod-%d", i)},
		UIDs:   []types.UID{types.UID(fmt.Sprintf("uid-%d", i))},
		Labels: d.labels(),
		Node:   nodeNames[i%2],
	}
	if d.IntN(8) > 0 {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", i%2, i+1)), netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", i+1)))
	}
	for _, name := range []string{"http", "dns"} {
		if d.coin() {
			p.Ports = append(p.Ports, Port{name, d.proto(), d.port()})
		}
	}
	return p
}

func (d dice) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch d.IntN(5) {
	case 0: // everything
	case 1:
		s.MatchLabels = map[string]string{pick(d, "app", "tier"): pick(d, "a", "b", "c")}
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: pick(d, "app", "tier"), Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{pick(d, "a", "c")}}}
	case 4:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "tier", Operator: pick(d, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}}
	}
	return s
}

func (d dice) block() *networkingv1.IPBlock {
	switch d.IntN(6) {
	case 0:
		return &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{pick(d, "10.244.0.0/24", "10.244.0.1/32", "192.0.2.0/24")}}
	case 1:
		return &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00:10:244::/125"}}
	case 2:
		return &networkingv1.IPBlock{CIDR: "10.244.0.0/16", Except: []string{"10.244.1.0/28", "10.244.1.2/31"}}
	case 3:
		return &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.244.%d.%d/%d", d.IntN(2), 1+d.IntN(8), 28+d.IntN(5))}
	case 4:
		return &networkingv1.IPBlock{CIDR: fmt.Sprintf("fd00:10:244::%x/%d", 1+d.IntN(8), 124+d.IntN(5))}
	}
	return &networkingv1.IPBlock{CIDR: pick(d, "192.0.2.0/24", "192.0.2.7/32", "10.244.300.1/8")}
}

func (d dice) peers() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for range d.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		switch d.IntN(4) {
		case 0:
			p.PodSelector = d.selector()
		case 1:
			p.NamespaceSelector = d.selector()
		case 2:
			p.PodSelector, p.NamespaceSelector = d.selector(), d.selector()
		case 3:
			p.IPBlock = d.block()
		}
		out = append(out, p)
	}
	return out
}

func (d dice) ports() []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for range d.IntN(3) {
		var p networkingv1.NetworkPolicyPort
		if d.coin() {
			proto := pick(d, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
			p.Protocol = &proto
		}
		switch d.IntN(4) {
		case 0:
		case 1:
			port := intstr.FromString(pick(d, "http", "dns", "no-such"))
			p.Port = &port
		case 2:
			port := intstr.FromInt32(int32(d.port()))
			p.Port = &port
		case 3:
			first := int32(d.IntN(100))
			port, last := intstr.FromInt32(first), first+int32(d.IntN(9000))
			p.Port, p.EndPort = &port, &last
		}
		out = append(out, p)
	}
	return out
}

func (d dice) policy(i int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace(), Name: fmt.Sprintf("policy-%d", i)}}
	p.Spec.PodSelector = *d.selector()
	if d.coin() {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
	}
	if d.coin() {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	for range d.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
	}
	for range d.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	return p
}

func (d dice) packet() Packet {
	p := Packet{Protocol: d.proto(), Port: d.port()}
	if d.IntN(8) == 0 {
		p.Protocol, p.Port = inet.ICMP, 0
	}
	if d.IntN(4) == 0 {
		p.Port = uint16(d.IntN(9100))
	}
	end := func() netip.Addr {
		if d.IntN(6) == 0 {
			return pick(d, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("2001:db8::1"))
		}
		return d.addr(d.IntN(8))
	}
	p.Src, p.Dst = end(), end()
	for p.Src == p.Dst || p.Src.Is4() != p.Dst.Is4() {
		p.Dst = end()
	}
	if p.Protocol == inet.ICMP && p.Src.Is6() {
		p.Protocol = inet.ICMPv6
	}
	return p
}

// history is a world and the nodes' models that follow its changes.
type history struct {
	d      dice
	world  World
	models []*model
}

func newHistory(d dice) *history {
	h := &history{d: d, world: World{Namespaces: map[string]map[string]string{}}}
	for _, name := range nodeNames {
		h.models = append(h.models, newModel(name))
	}
	return h
}

func (h *history) each(f func(m *model)) {
	for _, m := range h.models {
		f(m)
	}
}

// step changes something.
func (h *history) step() {
	d, w := h.d, &h.world
	switch d.IntN(8) {
	case 0, 1, 2:
		p := d.policy(d.IntN(5))
		w.Policies = append(slices.DeleteFunc(w.Policies, sameName(p)), p)
		h.each(func(m *model) { m.setPolicy(newPolicy(p)) })
	case 3:
		if len(w.Policies) == 0 {
			return
		}
		i := d.IntN(len(w.Policies))
		name := types.NamespacedName{Namespace: w.Policies[i].Namespace, Name: w.Policies[i].Name}
		w.Policies = slices.Delete(w.Policies, i, i+1)
		h.each(func(m *model) { m.deletePolicy(name) })
	case 4, 5:
		p := d.pod(d.IntN(8))
		for _, o := range w.Pods {
			if o.UIDs[0] == p.UIDs[0] && o.Name != p.Name {
				h.dropPod(o.Name)
			}
		}
		w.Pods = append(slices.DeleteFunc(slices.Clone(w.Pods), func(o Pod) bool { return o.Name == p.Name }), p)
		h.each(func(m *model) { m.setPod(p) })
	case 6:
		if len(w.Pods) > 0 {
			h.dropPod(w.Pods[d.IntN(len(w.Pods))].Name)
		}
	case 7:
		name := d.namespace()
		if d.IntN(4) == 0 {
			delete(w.Namespaces, name)
			h.each(func(m *model) { m.deleteNamespace(name) })
			return
		}
		set := d.labels()
		w.Namespaces[name] = set
		h.each(func(m *model) { m.setNamespace(name, set) })
	}
}

func sameName(p *networkingv1.NetworkPolicy) func(*networkingv1.NetworkPolicy) bool {
	return func(o *networkingv1.NetworkPolicy) bool { return o.Namespace == p.Namespace && o.Name == p.Name }
}

func (h *history) dropPod(name types.NamespacedName) {
	h.world.Pods = slices.DeleteFunc(slices.Clone(h.world.Pods), func(o Pod) bool { return o.Name == name })
	h.each(func(m *model) { m.deletePod(name) })
}

// end takes everything away.
func (h *history) end() {
	for _, p := range h.world.Policies {
		h.each(func(m *model) { m.deletePolicy(types.NamespacedName{Namespace: p.Namespace, Name: p.Name}) })
	}
	for _, p := range h.world.Pods {
		h.each(func(m *model) { m.deletePod(p.Name) })
	}
	for name := range h.world.Namespaces {
		h.each(func(m *model) { m.deleteNamespace(name) })
	}
}

// FuzzModel lets random histories run and compares what the maps say about
// random packets with what the API's objects say, read one by one.
func FuzzModel(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		h := newHistory(dice{rand.New(rand.NewPCG(seed, 1))})
		twins := []*twin{newTwin(), newTwin()}
		for range 60 {
			for range 1 + h.d.IntN(3) {
				h.step()
			}
			for i, m := range h.models {
				twins[i].apply(m.commit())
			}
			for range 20 {
				p := h.d.packet()
				have, want := twins[0].forwards(p) && twins[1].forwards(p), Explain(h.world, p)
				if have != want.Allowed {
					t.Fatalf("%+v: maps say %v, objects say %+v", p, have, want)
				}
			}
		}
		h.end()
		for i, m := range h.models {
			twins[i].apply(m.commit())
			if n := twins[i].size(); n != 0 {
				t.Errorf("%d entries are left with nothing there: %+v", n, twins[i])
			}
			if n := len(m.namespaces) + len(m.identities) + len(m.groupsOf) + len(m.claims) + len(m.credited); n != 0 {
				t.Errorf("the model keeps %d things with nothing there", n)
			}
		}
	})
}
