// Command controllers measures skiff's controllers beside upstream's
// kube-controller-manager, built from its module, each with an API server of
// its own of the same build, in turn in the same run. It writes
// controllers.json and controllers.md: medians with minimum and maximum, never
// a verdict.
//
// Ours run in the API server's process, as in a control plane; upstream's is a
// process of its own, as shipped and with its client limit raised. Nodes are
// played: Pods are bound and become ready by a status write of the bench.
//
//	controllers -programs DIR [-n 5] [-out _output/bench] [-subjects none,skiff,raised,shipped]
package main
