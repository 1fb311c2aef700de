// Package v1alpha1 holds the configuration files that the supervisor writes
// for the programs inside a machine: the contract between `skiff supervise`
// on the host and `skiff-init`, `skiff-machine control-plane` and
// `skiff-machine node` in the machine's namespaces.
//
// It imports the standard library only, so that the tiny init stays tiny.
// It is internal to one release: both sides are always of the same version.
package v1alpha1
