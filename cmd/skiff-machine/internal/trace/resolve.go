package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
	"github.com/skiff-k8s/skiff/dataplane/policy"
)

// Resolve finds who calls what by which addresses.
func (o Objects) Resolve(q machine.TraceQuestion) (*machine.TraceRoute, error) {
	end, from, err := o.client(q.Client)
	if err != nil {
		return nil, err
	}
	r := &machine.TraceRoute{Client: end, Protocol: q.Protocol}
	to, err := o.destination(q, r)
	if err != nil || r.Note != "" && len(to) == 0 {
		return r, err
	}
	for _, t := range to {
		c := machine.TraceCall{To: t}
		if i := slices.IndexFunc(from, func(a netip.Addr) bool { return a.Is4() == t.Addr().Is4() }); i >= 0 {
			c.From = from[i]
		} else if end.Kind != machine.TraceHost {
			continue
		}
		r.Calls = append(r.Calls, c)
	}
	if len(r.Calls) == 0 {
		return nil, &mended{
			fmt.Errorf("%s %s has no address of the family of %s", end.Kind, end.Name, to[0]),
			"networking.ipFamily: dual in the cluster's config gives pods both",
		}
	}
	r.Flows = o.flows(r)
	return r, nil
}

// client finds who calls, and its addresses.
func (o Objects) client(n machine.TraceName) (machine.TraceEnd, []netip.Addr, error) {
	end := machine.TraceEnd{Kind: n.Kind}
	switch n.Kind {
	case machine.TraceHost:
		return end, nil, nil
	case machine.TraceNode:
		node := o.node(n.Name)
		if node == nil {
			return end, nil, &mended{fmt.Errorf("node %q: not found", n.Name), "kubectl get nodes lists those that exist"}
		}
		end.Name, end.Node, end.HostNetwork = n.Name, n.Name, true
		return end, nodeAddresses(node), nil
	}
	pod, err := o.pod(n)
	if err != nil {
		return end, nil, err
	}
	end.Name, end.Node, end.HostNetwork = pod.Namespace+"/"+pod.Name, pod.Spec.NodeName, pod.Spec.HostNetwork
	return end, podAddressesOf(pod), nil
}

// destination finds the addresses that are called; a Note of r says why there
// are none, or others than asked for.
func (o Objects) destination(q machine.TraceQuestion, r *machine.TraceRoute) ([]netip.AddrPort, error) {
	d := q.Destination
	switch d.Kind {
	case machine.TraceAddress:
		port, err := strconv.ParseUint(d.Port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q of %s: not a number", d.Port, d.Address)
		}
		to := netip.AddrPortFrom(d.Address.Unmap(), uint16(port))
		r.Destination = to.String()
		return []netip.AddrPort{to}, nil
	case machine.TracePod:
		pod, err := o.pod(d)
		if err != nil {
			return nil, err
		}
		r.Destination = "Pod " + pod.Namespace + "/" + pod.Name
		port, err := podPort(pod, d.Port, q.Protocol)
		if err != nil {
			return nil, err
		}
		return withPort(podAddressesOf(pod), port), nil
	}
	return o.service(q, r)
}

func (o Objects) service(q machine.TraceQuestion, r *machine.TraceRoute) ([]netip.AddrPort, error) {
	d := q.Destination
	i := slices.IndexFunc(o.Services, func(s *corev1.Service) bool { return s.Namespace == d.Namespace && s.Name == d.Name })
	if i < 0 {
		return nil, &mended{
			fmt.Errorf("service %s/%s: not found", d.Namespace, d.Name),
			fmt.Sprintf("kubectl get services -n %s lists those that exist; NAME.NAMESPACE names one of another namespace, pod/NAME a pod", d.Namespace),
		}
	}
	s := o.Services[i]
	r.Destination = "Service " + s.Namespace + "/" + s.Name
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		r.Note = "it is an alias of " + s.Spec.ExternalName + " that DNS answers with: no connection is translated"
		return nil, nil
	}
	port, err := servicePort(s, d.Port, corev1.Protocol(q.Protocol))
	if err != nil {
		return nil, err
	}
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		to := o.endpointsOf(s, port)
		r.Note = "it is headless: DNS answers with its endpoints, and nothing is translated"
		if len(to) == 0 {
			r.Note = "it is headless and has no ready endpoints: DNS has no address for it"
		}
		return to, nil
	}
	var addrs []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a)
		}
	}
	return withPort(addrs, uint16(port.Port)), nil
}

// servicePort finds a port by number or name; without either the only one.
func servicePort(s *corev1.Service, port string, protocol corev1.Protocol) (corev1.ServicePort, error) {
	var found []string
	var one corev1.ServicePort
	all := portsOf(s)
	for i, p := range s.Spec.Ports {
		if p.Protocol == protocol && (port == "" || port == p.Name || port == strconv.Itoa(int(p.Port))) {
			found, one = append(found, all[i]), p
		}
	}
	switch {
	case len(found) == 1:
		return one, nil
	case len(found) > 1:
		return one, &mended{fmt.Errorf("service %s/%s has several %s ports: %s", s.Namespace, s.Name, protocol, strings.Join(found, ", ")), "say which: " + s.Name + "." + s.Namespace + ":PORT"}
	case len(all) == 0:
		return one, &mended{fmt.Errorf("service %s/%s has no ports", s.Namespace, s.Name), "pod/NAMESPACE/NAME:PORT traces to one of its pods"}
	}
	what := string(protocol) + " port"
	if port != "" {
		what += " " + port
	}
	return one, &mended{
		fmt.Errorf("service %s/%s has no %s: it has %s", s.Namespace, s.Name, what, strings.Join(all, ", ")),
		"name one of these, with --protocol udp for a UDP port",
	}
}

// portsOf are a Service's ports as "80/TCP (http)".
func portsOf(s *corev1.Service) []string {
	var out []string
	for _, p := range s.Spec.Ports {
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		out = append(out, text)
	}
	return out
}

// podPort is a number, or the container port of that name, or the only one.
func podPort(pod *corev1.Pod, port, protocol string) (uint16, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
		return uint16(n), nil
	}
	var numbers []uint16
	var all []string
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if string(p.Protocol) != protocol || p.ContainerPort <= 0 || p.ContainerPort > 65535 {
				continue
			}
			all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s", p.ContainerPort, p.Name)))
			if port == "" || port == p.Name {
				numbers = append(numbers, uint16(p.ContainerPort))
			}
		}
	}
	if len(numbers) == 1 || len(numbers) > 1 && port != "" {
		return numbers[0], nil
	}
	what := "which port?"
	if port != "" {
		what = "no " + protocol + " port " + port
	}
	known := "none"
	if len(all) > 0 {
		known = strings.Join(all, ", ")
	}
	return 0, &mended{fmt.Errorf("pod %s/%s: %s its containers name %s", pod.Namespace, pod.Name, strings.TrimSuffix(what, "?")+":", known), "give its number: pod/" + pod.Namespace + "/" + pod.Name + ":PORT"}
}

// endpointsOf are the ready endpoints of a headless Service's port.
func (o Objects) endpointsOf(s *corev1.Service, port corev1.ServicePort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, slice := range o.Slices {
		if slice.Namespace != s.Namespace || slice.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, p := range slice.Ports {
			if p.Name == nil || *p.Name != port.Name || p.Port == nil || p.Protocol == nil || *p.Protocol != port.Protocol {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				if a, err := netip.ParseAddr(e.Addresses[0]); err == nil {
					out = append(out, netip.AddrPortFrom(a, uint16(*p.Port)))
				}
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// flows are the packets between nodes that the calls lead to.
func (o Objects) flows(r *machine.TraceRoute) []machine.TraceFlow {
	w := policy.WorldOf(o.Objects)
	var out []machine.TraceFlow
	for _, c := range r.Calls {
		to := []netip.AddrPort{c.To}
		if t := lb.TraceCall(callOf(*r, c), o.services(), table.Snapshot{}); t.Planned != nil {
			to = t.Planned.Backends
		}
		for _, a := range to {
			f := machine.TraceFlow{TraceCall: machine.TraceCall{From: c.From, To: a}}
			if r.Client.Kind == machine.TracePod && !r.Client.HostNetwork {
				f.FromNode = r.Client.Node
			}
			if name, node := w.PodAt(a.Addr()); name.Name != "" {
				f.ToPod, f.ToNode = name.String(), node
			}
			out = append(out, f)
		}
	}
	return out
}

func callOf(r machine.TraceRoute, c machine.TraceCall) lb.Call {
	return lb.Call{Node: r.Client.Node, HostNetwork: r.Client.HostNetwork, From: c.From, To: c.To, Proto: protocols[r.Protocol]}
}

var protocols = map[string]inet.Protocol{"TCP": inet.TCP, "UDP": inet.UDP, "SCTP": inet.SCTP}

// pod finds one that has addresses.
func (o Objects) pod(n machine.TraceName) (*corev1.Pod, error) {
	name := types.NamespacedName{Namespace: n.Namespace, Name: n.Name}
	for _, p := range o.Pods {
		if p.Namespace != n.Namespace || p.Name != n.Name {
			continue
		}
		switch describe := fmt.Sprintf("kubectl describe pod -n %s %s shows why", n.Namespace, n.Name); {
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
			return nil, &mended{fmt.Errorf("pod %s is not running: it has ended (%s)", name, p.Status.Phase), describe}
		case p.Spec.NodeName == "":
			return nil, &mended{fmt.Errorf("pod %s is not running: it is on no node yet", name), describe}
		case len(podAddressesOf(p)) == 0:
			return nil, &mended{fmt.Errorf("pod %s is not running: it has no address yet (%s)", name, p.Status.Phase), describe}
		}
		return p, nil
	}
	return nil, &mended{
		fmt.Errorf("pod %s: not found", name),
		fmt.Sprintf("kubectl get pods -n %s lists those that exist; -n NAMESPACE or NAMESPACE/NAME names one of another namespace", n.Namespace),
	}
}

func (o Objects) node(name string) *corev1.Node {
	for _, n := range o.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func nodeAddresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

func podAddressesOf(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

func withPort(addrs []netip.Addr, port uint16) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), port))
	}
	return out
}
