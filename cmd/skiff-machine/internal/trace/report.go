package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	proxyapis "k8s.io/kubernetes/pkg/proxy/apis"

	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/dataplane/lb"
	"github.com/skiff-k8s/skiff/dataplane/lb/table"
	"github.com/skiff-k8s/skiff/dataplane/policy"
)

var outcomes = map[lb.Verdict]string{
	lb.Translated:    machine.TraceTranslated,
	lb.Untouched:     machine.TraceUntouched,
	lb.RefusedEmpty:  machine.TraceNoEndpoint,
	lb.RefusedSource: machine.TraceNotInRange,
}

// TraceServices follows calls through the service maps of the client's node, or of
// the switch if it is outside.
func (o Objects) TraceServices(r machine.TraceRoute, maps table.Snapshot) []machine.ServiceTrace {
	out := []machine.ServiceTrace{}
	for _, c := range r.Calls {
		out = append(out, o.serviceTrace(r, c, lb.TraceCall(callOf(r, c), o.services(), maps)))
	}
	return out
}

// TracePolicies explains flows, and follows those that begin or end on a node
// through its policy maps.
func (o Objects) TracePolicies(r machine.TraceRoute, node string, maps *policy.Snapshot) []machine.PolicyTrace {
	out, w := []machine.PolicyTrace{}, policy.WorldOf(o.Objects)
	for _, f := range r.Flows {
		out = append(out, policyTrace(w, r, f, node, maps))
	}
	return out
}

// serviceTrace tells a trace by the names of pods, with what is odd.
func (o Objects) serviceTrace(r machine.TraceRoute, c machine.TraceCall, t lb.Trace) machine.ServiceTrace {
	out := machine.ServiceTrace{TraceCall: c, Port: t.Port, Outcome: outcomes[t.Verdict], Differences: t.Differences()}
	if t.Service.Name != "" {
		out.Service = t.Service.String()
	}
	var used []netip.AddrPort
	if t.Programmed != nil {
		used = t.Programmed.Backends
	}
	for _, e := range t.Endpoints {
		state := "not-ready"
		switch {
		case e.Terminating:
			state = "terminating"
		case e.Ready:
			state = "ready"
		}
		out.Endpoints = append(out.Endpoints, machine.TraceEndpoint{
			Address: e.Addr, Pod: o.podOfAddress(e.Addr.Addr().String()), Node: e.Node, State: state, Used: slices.Contains(used, e.Addr),
		})
	}
	for _, a := range used {
		if !slices.ContainsFunc(out.Endpoints, func(e machine.TraceEndpoint) bool { return e.Address == a }) {
			out.Endpoints = append(out.Endpoints, machine.TraceEndpoint{Address: a, Pod: o.podOfAddress(a.Addr().String()), State: "unknown", Used: true})
		}
	}
	out.Remarks = o.remarks(r, c, t)
	return out
}

// remarks are what of a Service limits or explains who is served.
func (o Objects) remarks(r machine.TraceRoute, c machine.TraceCall, t lb.Trace) []string {
	if t.HostPort {
		return []string{"it is a host port of a pod on the node"}
	}
	var out []string
	i := slices.IndexFunc(o.Services, func(s *corev1.Service) bool { return s.Namespace == t.Service.Namespace && s.Name == t.Service.Name })
	if i < 0 {
		return o.whose(c.To.Addr(), r.Client.Node)
	}
	s := o.Services[i]
	internal := slices.Contains(s.Spec.ClusterIPs, c.To.Addr().String())
	usable := t.Planned != nil && len(t.Planned.Backends) > 0
	ready := slices.ContainsFunc(t.Endpoints, func(e lb.Endpoint) bool { return e.Ready })
	switch {
	case len(t.Endpoints) == 0 && len(s.Spec.Selector) > 0:
		out = append(out, fmt.Sprintf("no Pod that has an address matches its selector %s and has the port", selectorText(s.Spec.Selector)))
	case len(t.Endpoints) == 0:
		out = append(out, "it has no selector, and no EndpointSlice names an endpoint for this port")
	case internal && s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal && !usable:
		out = append(out, "internalTrafficPolicy is Local, and "+place(r.Client.Node)+" has no endpoint that serves")
	case internal && s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal:
		out = append(out, "internalTrafficPolicy is Local: only endpoints on "+place(r.Client.Node)+" are used")
	case !internal && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !usable:
		out = append(out, "externalTrafficPolicy is Local, and the node that is called has no endpoint that serves")
	case !usable:
		out = append(out, "none of its endpoints is ready")
	case !ready:
		out = append(out, "no endpoint is ready: those that terminate and still serve are used")
	}
	if t.Planned != nil && t.Planned.Sources != nil {
		out = append(out, fmt.Sprintf("loadBalancerSourceRanges lets in %s only, and the client is %s", joined(t.Planned.Sources), orUnknown(c.From)))
	}
	if t.Planned != nil && t.Planned.Affinity > 0 {
		out = append(out, fmt.Sprintf("sessionAffinity is ClientIP: a client stays with its endpoint for %s", t.Planned.Affinity))
	}
	if s.Spec.PublishNotReadyAddresses {
		out = append(out, "publishNotReadyAddresses: endpoints count as ready whether they are or not")
	}
	return out
}

// whose says what is known of an address that is called at a port which no
// Service has.
func (o Objects) whose(addr netip.Addr, from string) []string {
	for _, s := range o.Services {
		if !slices.Contains(addressesOf(s), addr.String()) {
			continue
		}
		if proxy, other := s.Labels[proxyapis.LabelServiceProxyName]; other {
			return []string{fmt.Sprintf("Service %s/%s has the address; its label %s leaves it to %q", s.Namespace, s.Name, proxyapis.LabelServiceProxyName, proxy)}
		}
		return []string{fmt.Sprintf("Service %s/%s has the address, with the ports %s only", s.Namespace, s.Name, strings.Join(portsOf(s), ", "))}
	}
	if name, node := policy.WorldOf(o.Objects).PodAt(addr); name.Name != "" {
		return []string{fmt.Sprintf("it is the address of pod %s on node %s", name, node)}
	}
	for _, n := range o.Nodes {
		if !slices.Contains(nodeAddresses(n), addr) {
			continue
		}
		if n.Name == from {
			return []string{"it is this node's address"}
		}
		return []string{fmt.Sprintf("it is the address of node %s, where host ports of its pods are translated", n.Name)}
	}
	return nil
}

// addressesOf are all that lead to a Service.
func addressesOf(s *corev1.Service) []string {
	out := slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return out
}

func place(node string) string {
	if node == "" {
		return "the outside"
	}
	return "node " + node
}

func orUnknown(a netip.Addr) string {
	if !a.IsValid() {
		return "of no known address"
	}
	return a.String()
}

func joined[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

func selectorText(set map[string]string) string {
	var out []string
	for k, v := range set {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// policyTrace explains a flow, and asks the maps of this node for the ends
// that are on it.
func policyTrace(w policy.World, r machine.TraceRoute, f machine.TraceFlow, node string, maps *policy.Snapshot) machine.PolicyTrace {
	p := policy.Packet{Src: f.From, Dst: f.To.Addr(), Protocol: protocols[r.Protocol], Port: f.To.Port()}
	e := policy.Explain(w, p)
	out := machine.PolicyTrace{TraceFlow: f, Allowed: e.Allowed, Exempt: e.Exempt}
	if e.Exempt != "" {
		return out
	}
	var namespaces []string
	direction := func(j *policy.Judgement, d policy.Direction, on string) *machine.PolicyDirection {
		if j == nil || on == "" {
			return nil
		}
		namespaces = append(namespaces, j.Pod.Namespace)
		out := &machine.PolicyDirection{Pod: j.Pod.String(), Node: on, Allowed: j.Allowed}
		for _, p := range j.Policies {
			out.Policies = append(out.Policies, p.String())
		}
		for _, rule := range j.AllowedBy {
			out.AllowedBy = append(out.AllowedBy, fmt.Sprintf("%s spec.%s[%d]", rule.Policy, strings.ToLower(d.String()), rule.Index))
		}
		if on == node {
			m := policy.TraceMaps(w, p, d, node, maps)
			out.MapsAllow, out.Differences = &m.Allowed, m.Differences
		}
		return out
	}
	out.Egress = direction(e.Egress, policy.Egress, f.FromNode)
	out.Ingress = direction(e.Ingress, policy.Ingress, f.ToNode)
	out.Remarks = w.Problems(namespaces...)
	return out
}
