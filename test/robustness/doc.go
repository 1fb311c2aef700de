// Package robustness tests that nothing acknowledged is ever lost: real
// clusters under load and faults. `make robustness` runs it.
//
// Clients write ConfigMaps and watch them, and append to journals in the
// volumes of a StatefulSet, while faults are drawn from a seed: processes die
// or stand still, the cluster stops, the host reboots, clocks jump, cables are
// cut. Then packages history and journal have the verdict, and REPORT.md is
// written. Further specs take etcd's disk and files away.
//
// The suite itself is behind the build tag robustness; what decides is not.
package robustness
