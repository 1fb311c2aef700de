// Package stats is the node's cAdvisor: what upstream's kubelet asks for the
// machine's capacity and the usage of its cgroups and file systems.
//
// Upstream's cAdvisor watches every cgroup and samples it in the background.
// This one samples when it is asked, with upstream's own reader of cgroup
// files, and keeps the last sample so that rates can be told. The machine's
// capacity is what the node's configuration declares.
package stats
