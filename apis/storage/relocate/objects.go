package relocate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// loadBalancerAddresses is the annotation by which Services ask for addresses.
const loadBalancerAddresses = "skiff.cluster/load-balancer-ips"

// renameNode makes a Node the new cluster's. The kubelet writes its status.
func renameNode(n *corev1.Node, to *Node) {
	n.Name = to.To
	if n.Labels[corev1.LabelHostname] != "" {
		n.Labels[corev1.LabelHostname] = to.To
	}
	n.Spec.ProviderID = to.ProviderID
	n.Spec.PodCIDR, n.Spec.PodCIDRs = "", to.PodCIDRs
	if len(to.PodCIDRs) > 0 {
		n.Spec.PodCIDR = to.PodCIDRs[0]
	}
	n.Status.Addresses, n.Status.VolumesInUse, n.Status.VolumesAttached = nil, nil, nil
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			// Until its kubelet is heard of.
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", "kubelet is starting"
		}
	}
}

// movePod moves a Pod with its node. One that has ended stays as it ended;
// others have no address and are not ready until their kubelet says so.
func (p *Plan) movePod(pod *corev1.Pod) {
	pod.Spec.NodeName = p.nodeName(pod.Spec.NodeName)
	pod.Status.NominatedNodeName = p.nodeName(pod.Status.NominatedNodeName)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		// As the DaemonSet controller binds its Pods.
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			p.renameInFields(term.MatchFields)
		}
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}
	pod.Status.PodIP, pod.Status.PodIPs, pod.Status.HostIP, pod.Status.HostIPs = "", nil, "", nil
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status = corev1.ConditionFalse
		}
	}
	for i := range pod.Status.ContainerStatuses {
		pod.Status.ContainerStatuses[i].Ready = false
	}
}

func (p *Plan) renameInFields(fields []corev1.NodeSelectorRequirement) {
	for _, f := range fields {
		if f.Key == metav1.ObjectNameField {
			p.renameAll(f.Values)
		}
	}
}

func (p *Plan) renameAll(names []string) {
	for i := range names {
		names[i] = p.nodeName(names[i])
	}
}

// moveVolume moves a local volume with its node.
func (p *Plan) moveVolume(pv *corev1.PersistentVolume) {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return
	}
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		p.renameInFields(term.MatchFields)
		for _, e := range term.MatchExpressions {
			if e.Key == corev1.LabelHostname {
				p.renameAll(e.Values)
			}
		}
	}
}

func (p *Plan) moveService(s *corev1.Service) {
	s.Spec.ClusterIP = p.address(s.Spec.ClusterIP)
	s.Spec.ClusterIPs = p.addresses(s.Spec.ClusterIPs)
	s.Spec.LoadBalancerIP = p.address(s.Spec.LoadBalancerIP)
	if text := s.Annotations[loadBalancerAddresses]; text != "" {
		s.Annotations[loadBalancerAddresses] = p.addressList(text)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		in := &s.Status.LoadBalancer.Ingress[i]
		in.IP = p.address(in.IP)
	}
}

// keepsSlice says whether an EndpointSlice is a user's own. Those that
// controllers make have addresses of Pods or machines, and are made again.
func keepsSlice(s *discoveryv1.EndpointSlice) bool {
	by := s.Labels[discoveryv1.LabelManagedBy]
	ours := []string{"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io", "dns.skiff.cluster"}
	return !slices.Contains(ours, by) && !isAPIServer(s.Namespace, s.Labels[discoveryv1.LabelServiceName])
}

func isAPIServer(namespace, service string) bool {
	return namespace == metav1.NamespaceDefault && service == "kubernetes"
}

func (p *Plan) moveSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.Addresses = p.addresses(e.Addresses)
		if e.NodeName != nil {
			name := p.nodeName(*e.NodeName)
			e.NodeName = &name
		}
	}
}

// endpoints are what an old cluster's users may have.
type endpoints = corev1.Endpoints //nolint:staticcheck // deprecated, and in etcd all the same

// keepsEndpoints says whether Endpoints are a user's own. Those that the
// controller makes are its again.
func keepsEndpoints(e *endpoints) bool {
	_, selected := e.Annotations[corev1.EndpointsLastChangeTriggerTime]
	return !selected && e.Labels["endpoints.kubernetes.io/managed-by"] == "" && !isAPIServer(e.Namespace, e.Name)
}

func (p *Plan) moveEndpoints(e *endpoints) {
	for i := range e.Subsets {
		for _, list := range [][]corev1.EndpointAddress{e.Subsets[i].Addresses, e.Subsets[i].NotReadyAddresses} {
			for j := range list {
				list[j].IP = p.address(list[j].IP)
				if list[j].NodeName != nil {
					name := p.nodeName(*list[j].NodeName)
					list[j].NodeName = &name
				}
			}
		}
	}
}

func (p *Plan) moveServiceCIDR(c *networkingv1.ServiceCIDR) {
	if c.Name == "kubernetes" { // the cluster's own; others are the user's
		c.Spec.CIDRs = p.ServiceCIDRs
	}
}
