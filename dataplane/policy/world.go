package policy

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/dataplane/inet"
)

// Packet is one that opens a flow: replies are not judged.
type Packet struct {
	Src, Dst netip.Addr
	Protocol inet.Protocol
	// Port is the destination's; 0 for protocols without.
	Port uint16
}

// Port is a container's port with a name.
type Port struct {
	Name     string
	Protocol inet.Protocol
	Number   uint16
}

// Pod is what policies need to know of a Pod.
type Pod struct {
	Name types.NamespacedName
	// UIDs are the object's and, of a static pod's mirror, also the one that
	// the kubelet uses.
	UIDs   []types.UID
	Labels map[string]string
	Addrs  []netip.Addr
	// Ports are the named ones, in the order in which the first of a name
	// counts.
	Ports []Port
	Node  string
	// Only limits who is no pod but looks like one, cluster DNS on its node:
	// the addresses are this pod's only where one of these ports is called.
	Only []Port
}

// World is all that decides about packets.
type World struct {
	Policies []*networkingv1.NetworkPolicy
	// Pods without those that have ended or are on the host's network.
	Pods []Pod
	// Namespaces are labels by name.
	Namespaces map[string]map[string]string
	// Nodes are addresses by node name.
	Nodes map[string][]netip.Addr
}

// Direction of a policy, as seen from the pod that it selects.
type Direction uint8

// The directions.
const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// String is the name as Kubernetes writes it.
func (d Direction) String() string {
	if d == Ingress {
		return "Ingress"
	}
	return "Egress"
}

// isolates says whether a policy has a direction: where policyTypes is left
// out, ingress always and egress if there are rules for it.
func isolates(p *networkingv1.NetworkPolicy, d Direction) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return d == Ingress || len(p.Spec.Egress) > 0
	}
	for _, t := range p.Spec.PolicyTypes {
		if string(t) == d.String() {
			return true
		}
	}
	return false
}
