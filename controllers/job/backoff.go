package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	upstream "k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/utils/ptr"
)

// backoff is how often Pods of a Job have failed since one succeeded.
type backoff struct {
	failures int
	last     time.Time
}

// after is the back-off when these Pods have ended too.
func (b backoff) after(succeeded, failed []*corev1.Pod) backoff {
	failures := make([]time.Time, 0, len(failed))
	for _, pod := range failed {
		failures = append(failures, endedAt(pod))
	}
	if len(succeeded) > 0 {
		b = backoff{}
		var success time.Time
		for _, pod := range succeeded {
			if at := endedAt(pod); at.After(success) {
				success = at
			}
		}
		failures = slices.DeleteFunc(failures, func(at time.Time) bool { return !at.After(success) })
	}
	if len(failures) == 0 {
		return b
	}
	return backoff{failures: b.failures + len(failures), last: slices.MaxFunc(failures, time.Time.Compare)}
}

// remaining is how long the next Pod must wait: ten seconds after the first
// failure, twice as long after each one more, ten minutes at most.
func (b backoff) remaining(now time.Time) time.Duration {
	if b.failures == 0 {
		return 0
	}
	wait := upstream.DefaultJobPodFailureBackOff
	for i := 1; i < b.failures && wait < upstream.MaxJobPodFailureBackOff; i++ {
		wait = min(2*wait, upstream.MaxJobPodFailureBackOff)
	}
	return max(0, wait-now.Sub(b.last))
}

// endedAt is when a Pod ended: its last container, or else when it became
// unready, when it should have been gone, or when it was made.
func endedAt(pod *corev1.Pod) time.Time {
	if at := lastContainer(pod); !at.IsZero() {
		return at
	}
	if _, c := podutil.GetPodCondition(&pod.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}

// lastContainer is when the last container ended, sidecars among them, and
// zero while one runs. Init containers that are no sidecars end before all.
func lastContainer(pod *corev1.Pod) time.Time {
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		sidecars[c.Name] = ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
	}
	statuses := slices.Clone(pod.Status.ContainerStatuses)
	for _, s := range pod.Status.InitContainerStatuses {
		if sidecars[s.Name] {
			statuses = append(statuses, s)
		}
	}
	var last time.Time
	for _, s := range statuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}
		}
		if at := s.State.Terminated.FinishedAt.Time; at.After(last) {
			last = at
		}
	}
	return last
}
