// Package loadbalancer gives Services of type LoadBalancer addresses of the
// cluster's LoadBalancer ranges, as a cloud's load balancer would. The address
// is all there is to a load balancer here: the dataplane of every node and of
// the switch serves whatever a Service's status says.
//
// The record of who has what is status.loadBalancer of the Services, and
// nothing else: a restarted controller reads it and changes nothing. One pass
// looks at all Services, so that who is first does not depend on the order of
// events: those that have their address keep it, then come those that ask for
// one, then all others, each from the oldest on. Whatever cannot be had is
// said in an Event, and tried again when any Service changes.
//
// A Service asks for addresses in spec.loadBalancerIP or, one of each family,
// in the annotation skiff.cluster/load-balancer-ips. Two Services may have one
// address if both name the same key in the annotation
// skiff.cluster/allow-shared-ip, one of them asks for the address, and no port
// is in both. spec.loadBalancerClass other than skiff.cluster/loadbalancer
// belongs to somebody else.
//
// Events and the finalizer are those of upstream's service controller
// (k8s.io/cloud-provider). Ports of nodes are the API server's.
package loadbalancer
