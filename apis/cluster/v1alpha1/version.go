package v1alpha1

// The Kubernetes that a cluster of this release is, as `kubectl version`
// prints it.
const (
	KubernetesVersion = "v1.37.2+skiff"
	KubernetesMinor   = "1.37"
)
