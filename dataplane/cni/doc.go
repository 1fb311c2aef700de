// Package cni attaches pods to their node: it implements go-cni's CNI
// interface by function call, for the containerd in the node process.
//
// A pod gets a veth pair, made directly in its namespace, with one address of
// each of the node's pod ranges (a /32, a /128 or both), default routes through
// link-local gateways with permanent neighbours, and routes to it in the node.
// Nothing is bridged, nothing is asked of neighbours, and no program is
// attached here (see Config.Connected); pods with bandwidth annotations get token buckets.
//
// Addresses are handed out round robin, so that one that was just given back
// is the last to be used again. Reservations are files in Config.StateDir:
// they outlive the process, as the pods do, and should die with the machine.
//
// The package must be used by a process in the node's network namespace. It
// does not translate host ports: it tells Config.HostPorts about them.
package cni
