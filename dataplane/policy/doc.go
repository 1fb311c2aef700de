// Package policy enforces NetworkPolicies: every node's own Loader watches
// them, and Pods and Namespaces while there is one, and keeps the kernel maps
// of its node equal to what they say about the node's own pods.
//
// The programs (dataplane/bpf/policy.c) are at netfilter's hooks of the node,
// once for all pods and both families: forward, where a packet is judged by
// its sender's egress and its receiver's ingress; local_in, by its sender's
// egress. dataplane/bpf/policy.h tells how a verdict is a few lookups by
// exact key. The parts:
//
//	explain.go   what the API's objects say about a packet, read off them one
//	             by one: slow, plain, and what all else is tested against
//	rules.go     a NetworkPolicy, made ready to be asked
//	model.go     pods, their identities and groups, kept up to date by changes
//	grants.go    which ports a group grants a peer
//	commit.go    what a change of the model is in entries of the maps
//	table.go     writes them, in an order in which no reader sees less
//	             protection than the old or the new state gives
//	kernel.go    programs, links and pins
//	feed.go      the API server's objects
//	loader.go    puts them together
//	metrics.go   what is counted
//	snapshot.go  reads the maps of a node, as the programs do
//	trace.go     compares that with what it should be, for a packet
//
// # What is decided where upstream leaves it open
//
//   - A pod reaches itself, and its own node always reaches it (probes).
//   - A pod's way to its own node, to other nodes and so to the API server is
//     egress like any other: ipBlock and rules without peers judge it.
//   - Cluster DNS is served by the control plane's process and not by a pod.
//     Its endpoints are peers as the pods of kube-dns would be: namespace
//     kube-system, label k8s-app=kube-dns, the Service's ports.
//   - Pods with hostNetwork have their node's address: policies neither select
//     them nor see them as peers, except by ipBlock.
//   - A policy that comes or changes leaves established TCP connections alone,
//     and UDP flows that are answers of a fresh flow (30 s, or 120 s once it
//     was answered). All else is judged packet by packet.
//   - Protocols other than TCP, UDP and SCTP are of rules without ports. An
//     echo's reply passes as an answer; an ICMP error passes if what it quotes
//     belongs to a flow; neighbour and router discovery always pass.
//   - Fragments after the first pass: the first is judged.
//   - A pod may send, and gets, TCP packets that open no connection.
//
// # Cost without policies
//
// One watch. Pods and Namespaces are watched when the first policy exists,
// programs loaded when the first pod of the node is isolated, and attached
// while one is.
//
// # Pods that start
//
// The pod network calls Admit with a pod's addresses before the pod can send
// or receive: it returns when the maps hold what policies say about the pod,
// and waits for the watches if they have not told of it yet.
//
// # Processes come and go
//
// Links are pinned; programs hold their maps. A new process fills maps of its
// own, attaches its programs beside the old ones, and only then takes the
// old ones away. The flows that were allowed, and the counts of drops, are
// pinned maps that both use.
package policy

//go:generate ../../hack/generate-bpf.sh bpf policy.c -type policy_addr -type policy_pod -type policy_peer_key -type policy_peer -type policy_peer_number -type policy_kind -type policy_group -type policy_mask -type policy_rule -type policy_block -type policy_drop
