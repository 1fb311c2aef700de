package server

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
)

// priorities order the built-in groups and versions in discovery, and so
// decide what an ambiguous `kubectl get` means. A group version that is not
// here gets no APIService and is not served. Upstream's table is unexported
// (cmd/kube-apiserver/app/aggregator.go); a test holds this one against what
// the server serves.
func priorities() map[schema.GroupVersion]controlplaneapiserver.APIServicePriority {
	all := controlplaneapiserver.DefaultGenericAPIServicePriorities()
	for _, group := range []struct {
		name     string
		priority int32
		versions map[string]int32
	}{
		{"", 18000, map[string]int32{"v1": 1}},
		{"apps", 17800, map[string]int32{"v1": 15}},
		{"autoscaling", 17500, map[string]int32{"v1": 15, "v2": 30, "v2beta1": 9, "v2beta2": 1}},
		{"batch", 17400, map[string]int32{"v1": 15, "v1beta1": 9, "v2alpha1": 9}},
		{"networking.k8s.io", 17200, map[string]int32{"v1": 15, "v1beta1": 9}},
		{"policy", 17100, map[string]int32{"v1": 15, "v1beta1": 9}},
		{"storage.k8s.io", 16800, map[string]int32{"v1": 15, "v1beta1": 9, "v1alpha1": 1}},
		{"scheduling.k8s.io", 16600, map[string]int32{"v1": 15, "v1beta1": 9, "v1alpha3": 3}},
		{"node.k8s.io", 16300, map[string]int32{"v1": 15, "v1alpha1": 1, "v1beta1": 9}},
		{"resource.k8s.io", 16200, map[string]int32{"v1": 21, "v1beta2": 15, "v1beta1": 9, "v1alpha3": 1}},
		{"lifecycle.k8s.io", 15700, map[string]int32{"v1alpha1": 1}},
	} {
		for version, priority := range group.versions {
			all[schema.GroupVersion{Group: group.name, Version: version}] =
				controlplaneapiserver.APIServicePriority{Group: group.priority, Version: priority}
		}
	}
	return all
}
