// Package nodenat loads the programs that translate Services of SCTP for a
// node and its pods (dataplane/bpf/lb_node.c). The kernel runs no program when
// a socket of SCTP connects or sends, so that these are the packets' only way;
// TCP and UDP have theirs at the socket.
//
// The programs read the maps that the socket programs have. They are filters
// of the devices in the node's network namespace, and stay with them.
package nodenat

//go:generate ../../../hack/generate-bpf.sh node lb_node.c -no-global-types
