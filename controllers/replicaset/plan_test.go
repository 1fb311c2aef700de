package replicaset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pod is scheduled when it has a node, and ready for that long; zero is not.
func pod(name, node string, ready time.Duration) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)), Labels: map[string]string{"app": "a"}}}
	p.Spec.NodeName = node
	p.Status.Phase = corev1.PodPending
	if node != "" {
		p.Status.Phase = corev1.PodRunning
	}
	if ready > 0 {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ready))}}
	}
	return p
}

func many(n int) []*corev1.Pod {
	var pods []*corev1.Pod
	for i := range n {
		pods = append(pods, pod(fmt.Sprint(i), "n", time.Minute))
	}
	return pods
}

func TestPlanReplicas(t *testing.T) {
	waiting, starting, old, young := pod("waiting", "", 0), pod("starting", "n1", 0), pod("old", "n1", time.Hour), pod("young", "n2", time.Minute)
	crowded := pod("crowded", "n3", time.Hour)
	for name, c := range map[string]struct {
		want    int
		active  []*corev1.Pod
		related []*corev1.Pod
		create  int
		remove  string
		removed int
	}{
		"none of three":          {want: 3, create: 3},
		"as many as wanted":      {want: 1, active: many(1)},
		"more than one burst":    {want: 2000, create: 500},
		"all go":                 {want: 0, active: many(3), removed: 3},
		"fewer by more than one": {want: 0, active: many(700), removed: 500},
		"one waits for a node":   {want: 3, active: []*corev1.Pod{old, young, starting, waiting}, removed: 1, remove: "waiting"},
		"one is not ready":       {want: 2, active: []*corev1.Pod{old, young, starting}, removed: 1, remove: "starting"},
		"the younger goes":       {want: 1, active: []*corev1.Pod{old, young}, removed: 1, remove: "young"},
		"the crowded node loses": {want: 1, active: []*corev1.Pod{crowded, young}, related: []*corev1.Pod{crowded, young, pod("x", "n3", time.Hour)}, removed: 1, remove: "crowded"},
	} {
		t.Run(name, func(t *testing.T) {
			got := planReplicas(c.want, c.active, c.related, now)
			if got.create != c.create || len(got.remove) != c.removed {
				t.Fatalf("create %d, remove %d; want %d, %d", got.create, len(got.remove), c.create, c.removed)
			}
			if c.remove != "" && got.remove[0].Name != c.remove {
				t.Errorf("removes %s, want %s", got.remove[0].Name, c.remove)
			}
		})
	}
}

func TestPlanStatus(t *testing.T) {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Generation: 3},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](5), MinReadySeconds: 60,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}},
		},
	}
	other := pod("other", "n", time.Hour)
	other.Labels = map[string]string{"app": "b"}
	seen := observed{
		active:      []*corev1.Pod{pod("a", "n", time.Hour), pod("b", "n", time.Second), pod("c", "", 0), other},
		terminating: []*corev1.Pod{},
	}
	status := planStatus(rs, seen, now)
	want := appsv1.ReplicaSetStatus{
		Replicas: 4, FullyLabeledReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 2,
		TerminatingReplicas: ptr.To[int32](0), ObservedGeneration: 3,
	}
	check := func(when string, want appsv1.ReplicaSetStatus) {
		t.Helper()
		if !same(&appsv1.ReplicaSet{Status: status}, want) {
			t.Errorf("%s: %+v, want %+v", when, status, want)
		}
	}
	check("counts", want)

	rs.Status = status
	seen.failure = errors.New("quota")
	status = planStatus(rs, seen, now)
	want.Conditions = []appsv1.ReplicaSetCondition{{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota",
		LastTransitionTime: metav1.NewTime(now),
	}}
	check("a failure", want)

	rs.Status = status
	seen.failure = errors.New("another")
	status = planStatus(rs, seen, now.Add(time.Second))
	check("the first failure stays", want)

	seen.failure = nil
	status = planStatus(rs, seen, now)
	want.Conditions = nil
	check("and goes", want)
	if len(rs.Status.Conditions) != 1 {
		t.Error("the old status was changed")
	}
}
