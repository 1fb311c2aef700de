package statefulset

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

func set(name string, templates ...string) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, t := range templates {
		s.Spec.VolumeClaimTemplates = append(s.Spec.VolumeClaimTemplates, corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: t}})
	}
	return s
}

func TestMember(t *testing.T) {
	for name, want := range map[string]bool{
		"web-0": true, "web-12": true, "web-": false, "web": false, "web-a": false, "web-0-1": false, "web-1x": false, "db-0": false,
	} {
		if got := member(set("web"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestClaims(t *testing.T) {
	for name, want := range map[string]bool{
		"data-web-0": true, "logs-web-3": true, "data-web": false, "data-web-x": false, "other-web-0": false, "data-db-0": false, "data": false,
	} {
		if got := claims(set("web", "data", "logs"), name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNextAvailable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ready := func(ago time.Duration) *corev1.Pod {
		pod := &corev1.Pod{}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}
		return pod
	}
	slow := set("web")
	slow.Spec.MinReadySeconds = 10
	waiting := &appsv1.StatefulSetStatus{ReadyReplicas: 2, AvailableReplicas: 1}
	for name, c := range map[string]struct {
		set    *appsv1.StatefulSet
		status *appsv1.StatefulSetStatus
		pods   []*corev1.Pod
		want   time.Duration
	}{
		"ready is available": {set: set("web"), status: waiting, pods: []*corev1.Pod{ready(0)}},
		"all are":            {set: slow, status: &appsv1.StatefulSetStatus{ReadyReplicas: 2, AvailableReplicas: 2}, pods: []*corev1.Pod{ready(0)}},
		"no status":          {set: slow, pods: []*corev1.Pod{ready(0)}},
		"the first of two":   {set: slow, status: waiting, pods: []*corev1.Pod{ready(2 * time.Second), ready(7 * time.Second)}, want: 3 * time.Second},
		"one that is":        {set: slow, status: waiting, pods: []*corev1.Pod{ready(time.Hour)}, want: 10 * time.Second},
	} {
		if got := nextAvailable(c.set, c.status, c.pods, now, clocktesting.NewFakePassiveClock(now)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
