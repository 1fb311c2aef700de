package podgc

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller/podgc/metrics"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	nodeutil "k8s.io/kubernetes/pkg/util/node"
	"k8s.io/kubernetes/pkg/util/taints"
)

// verdict is what to do with a Pod.
type verdict struct {
	// reason is upstream's of its metrics; empty leaves the Pod alone.
	reason string
	// wait is when to look again, if the Pod is left alone; zero is never.
	wait time.Duration
}

// unscheduledGrace is how long a Pod that is deleted without a node may still be
// there, from its whole second on: the API server marks it and takes it away,
// and only when it died in between is there something to do.
const unscheduledGrace = 2 * time.Second

// plan decides about a Pod. node is the one it is on, nil if that is missing
// since the time given.
func plan(pod *corev1.Pod, node *corev1.Node, missing, now time.Time, quarantine time.Duration) verdict {
	switch {
	case deleted(pod):
		return verdict{}
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
		if left := pod.DeletionTimestamp.Add(unscheduledGrace).Sub(now); left > 0 {
			return verdict{wait: min(left, unscheduledGrace)} // clocks may differ
		}
		return verdict{reason: metrics.PodGCReasonTerminatingUnscheduled}
	case pod.Spec.NodeName == "":
		return verdict{}
	case node == nil:
		if left := missing.Add(quarantine).Sub(now); left > 0 {
			return verdict{wait: left}
		}
		return verdict{reason: metrics.PodGCReasonOrphaned}
	case pod.DeletionTimestamp != nil && outOfService(node):
		return verdict{reason: metrics.PodGCReasonTerminatingOutOfService}
	}
	return verdict{}
}

// deleted tells whether all is done for a Pod that is still there: somebody's
// finalizer holds it.
func deleted(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 && ended(pod)
}

// ended tells whether the Pod will not run again.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// outOfService tells whether somebody has declared the node dead.
func outOfService(node *corev1.Node) bool {
	return !nodeutil.IsNodeReady(node) && taints.TaintKeyExists(node.Spec.Taints, corev1.TaintNodeOutOfService)
}

// failed is the status of a Pod that is deleted for the reason, or nil if it
// is to stay as it is.
func failed(pod *corev1.Pod, reason string) *corev1.PodStatus {
	if ended(pod) {
		return nil
	}
	status := pod.Status.DeepCopy()
	status.Phase = corev1.PodFailed
	status.ObservedGeneration = apipod.CalculatePodStatusObservedGeneration(pod)
	if reason == metrics.PodGCReasonOrphaned {
		apipod.UpdatePodCondition(status, &corev1.PodCondition{
			Type:               corev1.DisruptionTarget,
			ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, corev1.DisruptionTarget),
			Status:             corev1.ConditionTrue,
			Reason:             "DeletionByPodGC",
			Message:            "PodGC: node no longer exists",
		})
	}
	return status
}

// surplus are the Pods, of those that have ended, beyond the threshold:
// evicted ones first, then the oldest. Asked again before the cache has seen
// their deletion it names the same ones.
func surplus(ended []*corev1.Pod, threshold int) []*corev1.Pod {
	if len(ended) <= threshold {
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(ended), func(a, b *corev1.Pod) int {
		if x, y := eviction.PodIsEvicted(a.Status), eviction.PodIsEvicted(b.Status); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name), strings.Compare(a.Namespace, b.Namespace))
	})
	return sorted[:len(sorted)-threshold]
}
