package statefulset

import (
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/clock"
)

// member tells whether a Pod has a name of the set's: <set>-<ordinal>.
func member(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	parent, ordinal, ok := cutLast(pod.Name)
	return ok && parent == set.Name && digits(ordinal)
}

// claims tells whether a claim has a name of the set's: <template>-<set>-<ordinal>.
func claims(set *appsv1.StatefulSet, claim string) bool {
	name, ordinal, ok := cutLast(claim)
	if !ok || !digits(ordinal) {
		return false
	}
	for _, template := range set.Spec.VolumeClaimTemplates {
		if name == template.Name+"-"+set.Name {
			return true
		}
	}
	return false
}

func cutLast(name string) (before, after string, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// nextAvailable is when the next ready Pod has been ready for long enough;
// zero when none is about to be.
func nextAvailable(set *appsv1.StatefulSet, status *appsv1.StatefulSetStatus, pods []*corev1.Pod, now time.Time, c clock.PassiveClock) time.Duration {
	if set.Spec.MinReadySeconds == 0 || status == nil || status.ReadyReplicas == status.AvailableReplicas {
		return 0
	}
	if next := controller.FindMinNextPodAvailabilityCheck(pods, set.Spec.MinReadySeconds, now, c); next != nil {
		return max(*next, time.Millisecond)
	}
	return time.Duration(set.Spec.MinReadySeconds) * time.Second
}
