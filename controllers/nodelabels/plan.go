package nodelabels

import corev1 "k8s.io/api/core/v1"

const (
	// ControlPlane marks a control-plane node; its value is empty.
	ControlPlane = "node-role.kubernetes.io/control-plane"
	// ExcludeFromLoadBalancers keeps external load balancers away; kubeadm
	// sets it on control planes, and kind takes it off again where there is
	// no other node.
	ExcludeFromLoadBalancers = "node.kubernetes.io/exclude-from-external-load-balancers"

	// Given is the annotation of a Node that has got its labels: what its
	// user takes away afterwards stays away.
	Given = "skiff.cluster/labels-given"
)

// patch is what a Node still has to get; nil: nothing. It names the version
// that it was made from, as a cache may be behind a user who has taken a label
// away again.
func patch(node *corev1.Node, labels map[string]string) map[string]any {
	if _, given := node.Annotations[Given]; given || len(labels) == 0 {
		return nil
	}
	return map[string]any{"metadata": map[string]any{
		"resourceVersion": node.ResourceVersion,
		"labels":          labels,
		"annotations":     map[string]string{Given: "true"},
	}}
}
