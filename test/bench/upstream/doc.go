// Package upstream assembles a cluster from upstream's own programs, without
// Docker: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and
// per node containerd, kubelet and kube-proxy, each node in namespaces of its
// own. It is what skiff is measured against in the same run.
//
// Addresses exist only inside the network namespaces that it makes; none of
// them has a default route.
package upstream
