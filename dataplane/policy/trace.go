package policy

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Objects are what the API server holds.
type Objects struct {
	Policies   []*networkingv1.NetworkPolicy
	Pods       []*corev1.Pod
	Namespaces []*corev1.Namespace
	Nodes      []*corev1.Node
	Slices     []*discoveryv1.EndpointSlice
}

// WorldOf reads objects as a Loader does.
func WorldOf(o Objects) World {
	w := World{Policies: o.Policies, Namespaces: map[string]map[string]string{}, Nodes: map[string][]netip.Addr{}}
	for _, p := range o.Pods {
		if pod := podOf(p); pod != nil {
			w.Pods = append(w.Pods, *pod)
		}
	}
	for _, s := range o.Slices {
		if s.Namespace == dnsNamespace && s.Labels[discoveryv1.LabelServiceName] == dnsService {
			w.Pods = append(w.Pods, dnsOf(s))
		}
	}
	for _, ns := range o.Namespaces {
		w.Namespaces[ns.Name] = ns.Labels
	}
	for _, n := range o.Nodes {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				w.Nodes[n.Name] = append(w.Nodes[n.Name], addr.Unmap())
			}
		}
	}
	return w
}

// Problems are the fields of the policies of namespaces that match nothing.
func (w World) Problems(namespaces ...string) []string {
	var out []string
	for _, p := range w.Policies {
		for _, ns := range namespaces {
			if p.Namespace != ns {
				continue
			}
			for _, problem := range newPolicy(p).problems {
				out = append(out, fmt.Sprintf("NetworkPolicy %s/%s: %s", p.Namespace, p.Name, problem))
			}
			break
		}
	}
	return out
}

// MapTrace is what a node's maps say about one direction of a packet.
type MapTrace struct {
	Allowed bool
	// Differences are entries that are not as planned.
	Differences []string
}

// TraceMaps follows a packet in one direction through the maps of the node
// that its pod is on (maps), and through those that w leads to there.
func TraceMaps(w World, p Packet, d Direction, node string, maps *Snapshot) MapTrace {
	plan, have := planned(w, node).judge(d, p), maps.judge(d, p)
	t := MapTrace{Allowed: have.allowed}
	pod, peer := p.Src, p.Dst
	if d == Ingress {
		pod, peer = p.Dst, p.Src
	}
	differ := func(format string, args ...any) {
		t.Differences = append(t.Differences, fmt.Sprintf(format, args...))
	}
	way := strings.ToLower(d.String())
	switch {
	case plan.group != 0 && !maps.Attached:
		differ("the programs are not attached: no policy is enforced on this node")
	case plan.group != 0 && have.group == 0:
		differ("policy_pods lacks %s (%s): policies select the pod, and its packets are not judged", pod, way)
	case plan.group == 0 && have.group != 0:
		differ("policy_pods has %s (%s, group %d): no policy selects the pod", pod, way, have.group)
	case plan.group == 0:
	case !have.known:
		differ("policy_groups lacks group %d, which %s is in: all its %s is dropped", have.group, pod, way)
	default:
		if plan.peer && !have.peer {
			differ("policy_peers lacks %s: rules do not know it", peer)
		}
		if !plan.peer && have.peer {
			differ("policy_peers has %s, which is no pod that a rule names", peer)
		}
		if plan.allowed && !have.allowed && len(t.Differences) == 0 {
			differ("policy_rules lacks what lets %s and port %d/%s through group %d", peer, p.Port, p.Protocol, have.group)
		}
		if !plan.allowed && have.allowed && len(t.Differences) == 0 {
			differ("policy_rules lets %s and port %d/%s through group %d: no rule does", peer, p.Port, p.Protocol, have.group)
		}
	}
	return t
}

// PodAt is the name and the node of the pod that has an address, if one has.
func (w World) PodAt(addr netip.Addr) (name types.NamespacedName, node string) {
	for _, p := range w.Pods {
		if len(p.Only) > 0 {
			continue
		}
		for _, a := range p.Addrs {
			if a == addr {
				return p.Name, p.Node
			}
		}
	}
	return types.NamespacedName{}, ""
}
