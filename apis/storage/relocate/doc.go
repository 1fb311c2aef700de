// Package relocate rewrites what an etcd of Kubernetes' objects says about
// nodes and addresses, so that the objects of one cluster are right in another
// that has other names and ranges for the same nodes.
//
// Nodes are renamed and keep their labels, annotations and taints; Pods stay
// on their node; addresses of Services keep their place in the range. What
// kubelets and controllers write anew by themselves, and what would lead to
// the other cluster until they do, goes: addresses of Pods, EndpointSlices,
// leases, attachments.
//
// It is done to an etcd that no API server uses.
package relocate
