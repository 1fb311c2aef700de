// Package robustness tests that nothing acknowledged is ever lost: real
// clusters under load and faults. `make robustness` runs it.
//
// Clients write ConfigMaps and watch them, and append to journals in the
// volumes of a StatefulSet, while faults are drawn from a seed: processes die
// or stand still, the cluster stops, the host reboots, clocks jump, cables are
// cut. Then packages history and journal have the verdict, and REPORT.md is
// written. Further specs take etcd's disk and files away.
//
// `make kills` is about the process of a node: killed at random and at each step
// of a Pod's start and stop, it must lose no container, make none twice and leave
// nothing. `make churn` looks for what grows while Pods come and go.
//
// The suite itself is behind the build tag robustness; what decides is not.
package robustness
