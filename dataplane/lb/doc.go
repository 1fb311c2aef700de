// Package lb is service load balancing: every node's own Loader watches
// Services, EndpointSlices and Nodes and keeps the kernel maps of its node
// equal to what plan.go plans from them, in both address families.
//
// A connect() to a service is translated at the socket (dataplane/bpf/lb_sock.c,
// attached to the machine's own cgroup2 directory), so that packets of nodes
// and pods never carry a service's address. Packets that start elsewhere, on
// the host, are translated once, in the cluster's switch: the supervisor loads
// that program (package switchnat), the control-plane machine's Loader writes
// its maps. SCTP has no programs at its sockets: where something of SCTP is to
// be served, packets of the node and its pods are translated as well (package
// nodenat).
//
// Maps and links are pinned in the machine's bpf file system: they go on
// without the process, and the next one takes them over without a lost
// connection. What a Service asks for and this package cannot do is reported
// by an Event on the Service. What is pinned to a backend that left (connected
// UDP sockets, affinities, the switch's UDP flows) is removed beside the
// programming. Health and metrics are where upstream's kube-proxy has them;
// TraceCall follows one connection through maps and plan.
package lb

//go:generate ../../hack/generate-bpf.sh sock lb_sock.c -no-global-types
//go:generate ../../hack/generate-bpf.sh stale lb_stale.c -type lb_dead -no-global-types
