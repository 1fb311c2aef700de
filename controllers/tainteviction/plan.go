package tainteviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// verdict is what to do with a Pod.
type verdict int

const (
	cancel verdict = iota // what is planned
	await                 // the time that is planned already, or the returned one
	evict                 // now
)

// plan decides about a Pod by the NoExecute taints of its node. after is how
// long they are tolerated.
func plan(pod *corev1.Pod, taints []corev1.Taint) (v verdict, after time.Duration) {
	if len(taints) == 0 {
		return cancel, 0
	}
	all, used := v1helper.GetMatchingTolerations(klog.Background(), taints, pod.Spec.Tolerations)
	if !all {
		return evict, 0
	}
	shortest, forever := time.Duration(0), true
	for _, t := range used {
		if t.TolerationSeconds == nil {
			continue
		}
		seconds := max(0, time.Duration(*t.TolerationSeconds)*time.Second)
		if forever || seconds < shortest {
			shortest, forever = seconds, false
		}
	}
	if forever {
		return cancel, 0
	}
	return await, shortest
}

// noExecute are the taints that evict.
func noExecute(taints []corev1.Taint) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectNoExecute })
}

// evicted tells whether the Pod is on its way out, and says why.
func evicted(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && marked(pod, pod.DeletionTimestamp.Time) == nil
}

// marked is the status of a Pod that is evicted, or nil if it says so already.
func marked(pod *corev1.Pod, now time.Time) *corev1.PodStatus {
	status := pod.Status.DeepCopy()
	changed := apipod.UpdatePodCondition(status, &corev1.PodCondition{
		Type:               corev1.DisruptionTarget,
		ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, corev1.DisruptionTarget),
		Status:             corev1.ConditionTrue,
		Reason:             "DeletionByTaintManager",
		Message:            "Taint manager: deleting due to NoExecute taint",
	})
	if !changed {
		return nil
	}
	// Upstream's function takes the machine's time.
	_, before := apipod.GetPodCondition(&pod.Status, corev1.DisruptionTarget)
	if _, c := apipod.GetPodCondition(status, corev1.DisruptionTarget); before == nil || before.Status != c.Status {
		c.LastTransitionTime = metav1.Time{Time: now}
	}
	return status
}
