// Package fabric lays a cluster's cables: it gives the cluster a switch and
// every machine a network namespace, joins them with veth pairs, and sets the
// addresses and routes.
//
//	pod ─veth─ node netns (eth0) ─veth─ switch netns (host) ─veth─ host netns
//
// Everything is routed with /32 and /128 addresses, nothing is bridged, and
// nothing is asked of neighbours, routers or owners of duplicate addresses, so
// that IPv6 is up as soon as IPv4. The host knows the four ranges of a cluster
// (nodes, pods, services, load balancers) of each family by routes through the
// switch, with unreachable routes of a worse metric below them from before the
// first cable until after the last one is gone: no packet for these ranges
// ever leaves by the host's uplink. Our routes carry RouteProtocol; what else
// the kernel has is never touched, and no sysctl of the host is written but
// those of the cluster's own device.
//
// The namespaces are pinned as files in Config.NetnsDir, so that they outlive
// the supervisor, which calls this package. Every Ensure reads, compares and
// mends; every Remove finds things by name and succeeds when they are gone.
// Pods are attached inside a node by dataplane/cni, addresses of services are
// translated by dataplane/lb.
package fabric
