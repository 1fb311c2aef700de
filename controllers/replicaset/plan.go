package replicaset

import (
	"sort"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	upstream "k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/utils/ptr"
)

// change is what to do about the number of Pods.
type change struct {
	create int
	remove []*corev1.Pod
}

// planReplicas compares the active Pods with the wanted number. At most
// upstream's burst is changed at a time; the events of these bring the rest.
//
// Which Pods go first: not yet scheduled, not yet ready, on nodes with many
// Pods of related (the ReplicaSet's owner's), young ones.
func planReplicas(want int, active, related []*corev1.Pod, now time.Time) change {
	diff := want - len(active)
	if diff >= 0 {
		return change{create: min(diff, upstream.BurstReplicas)}
	}
	doomed := min(-diff, upstream.BurstReplicas)
	if doomed == len(active) {
		return change{remove: active}
	}
	onNode := map[string]int{}
	for _, pod := range related {
		if controller.IsPodActive(pod) {
			onNode[pod.Spec.NodeName]++
		}
	}
	ranked := controller.ActivePodsWithRanks{Now: metav1.Time{Time: now}}
	for _, pod := range active {
		ranked.Pods = append(ranked.Pods, pod)
		ranked.Rank = append(ranked.Rank, onNode[pod.Spec.NodeName])
	}
	sort.Sort(ranked)
	return change{remove: ranked.Pods[:doomed]}
}

// observed is what a status is made from.
type observed struct {
	active []*corev1.Pod
	// terminating is nil when the feature that counts them is off.
	terminating []*corev1.Pod
	// failure is why Pods could not be created or deleted.
	failure error
}

// planStatus returns the status that the observation asks for.
func planStatus(rs *appsv1.ReplicaSet, o observed, now time.Time) appsv1.ReplicaSetStatus {
	status := *rs.Status.DeepCopy()
	status.ObservedGeneration = rs.Generation
	status.Replicas = int32(len(o.active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	status.TerminatingReplicas = nil
	if o.terminating != nil {
		status.TerminatingReplicas = ptr.To(int32(len(o.terminating)))
	}
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	for _, pod := range o.active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podutil.IsPodReady(pod) {
			status.ReadyReplicas++
		}
		if podutil.IsPodAvailable(pod, rs.Spec.MinReadySeconds, metav1.Time{Time: now}) {
			status.AvailableReplicas++
		}
	}
	switch {
	case o.failure == nil:
		if upstream.GetCondition(status, appsv1.ReplicaSetReplicaFailure) != nil {
			upstream.RemoveCondition(&status, appsv1.ReplicaSetReplicaFailure)
		}
	case upstream.GetCondition(status, appsv1.ReplicaSetReplicaFailure) == nil:
		reason := ""
		switch missing := int(*rs.Spec.Replicas) - len(o.active); {
		case missing > 0:
			reason = "FailedCreate"
		case missing < 0:
			reason = "FailedDelete"
		}
		upstream.SetCondition(&status, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.Time{Time: now}, Reason: reason, Message: o.failure.Error(),
		})
	}
	return status
}

// same tells whether there is nothing to write.
func same(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) bool {
	return equality.Semantic.DeepEqual(rs.Status, status)
}
