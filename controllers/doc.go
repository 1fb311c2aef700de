// Package controllers runs every controller of a cluster in one
// controller-runtime manager, beside the API server in the control-plane
// process. Nothing else in skiff reconciles API objects, save the scheduler
// (package scheduling) and the nodes.
//
// Each controller has upstream's name. Under a name runs either one of ours
// (a package of its own below this one: plan.go decides, reconciler.go reads
// and writes) or upstream's; the table is in table.go, the reasons are in
// README.md. All of them read from one set of informers and write through
// the API server's in-process loopback without a client rate limit.
//
// The package listens on nothing, elects no leader, and touches no disk but
// the directory of dynamically provisioned volumes.
package controllers
