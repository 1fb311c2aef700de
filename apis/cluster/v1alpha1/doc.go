// Package v1alpha1 is the config file of `skiff create cluster --config`:
// `kind: Cluster` of skiff.cluster/v1alpha1, and of kind.x-k8s.io/v1alpha4,
// of which it is a superset.
//
// The way of a file is Load, ResolvePaths, SetDefaults, Validate. Load knows
// the shape only: unknown fields and wrong types are errors with their path.
// Validate knows the meaning and returns everything that is wrong at once.
// Neither looks at the host: whether a port is free or a mount source exists
// is checked where the cluster is made.
//
// Every field of kind's v1alpha4 works or is refused by name with the reason;
// the fields that skiff cannot have (kubeadm's and containerd's patches) are
// listed in load.go.
package v1alpha1
