package endpointslice

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// wantsSlices tells whether the controller makes slices for the Service. An
// ExternalName has no endpoints, and without a selector users write the slices.
func wantsSlices(service *corev1.Service) bool {
	return service.Spec.Type != corev1.ServiceTypeExternalName && service.Spec.Selector != nil
}

// present leaves out slices that are being deleted: the library would write to
// them forever.
func present(slices []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	var kept []*discoveryv1.EndpointSlice
	for _, s := range slices {
		if s.DeletionTimestamp == nil {
			kept = append(kept, s)
		}
	}
	return kept
}

// zonesChanged tells whether the distribution of ready nodes over zones is
// another one.
func zonesChanged(old, now *corev1.Node) bool {
	return ready(old) != ready(now) || old.Labels[corev1.LabelTopologyZone] != now.Labels[corev1.LabelTopologyZone]
}

func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
