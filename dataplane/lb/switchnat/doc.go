// Package switchnat loads the program that translates services for packets
// which start outside of the nodes (dataplane/bpf/lb_nat.c): on the device of
// the cluster's switch that leads to the host, all of them and all answers to
// them pass.
//
// The supervisor calls Load and Remove. Load also makes the service maps
// (package table) and pins them; who fills them is the Loader of package lb on
// the control-plane machine. The filters stay with the device and the maps
// with their pins, whatever happens to either process.
package switchnat

//go:generate ../../../hack/generate-bpf.sh nat lb_nat.c -type nat_flow -type nat_tuple -type nat_reply -no-global-types
