package podgc

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/podgc/metrics"
	"k8s.io/utils/ptr"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := func(node string, phase corev1.PodPhase, grace *int64) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if grace != nil {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now}, grace
		}
		return p
	}
	since := func(d time.Duration, p *corev1.Pod) *corev1.Pod {
		p.DeletionTimestamp.Time = now.Add(-d)
		return p
	}
	node := func(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
		for _, key := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
		}
		return n
	}
	dead := node(corev1.ConditionUnknown, corev1.TaintNodeOutOfService)
	thirty, zero := ptr.To[int64](30), ptr.To[int64](0)
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		node    *corev1.Node
		missing time.Duration
		want    verdict
	}{
		"runs on its node":                            {pod("n", corev1.PodRunning, nil), node(corev1.ConditionTrue), 0, verdict{}},
		"waits for a node":                            {pod("", corev1.PodPending, nil), nil, 0, verdict{}},
		"deleted without a node":                      {pod("", corev1.PodPending, zero), nil, 0, verdict{wait: 2 * time.Second}},
		"deleted without a node, and left there":      {since(2*time.Second, pod("", corev1.PodPending, zero)), nil, 0, verdict{reason: metrics.PodGCReasonTerminatingUnscheduled}},
		"deleted in an hour, by another clock":        {since(-time.Hour, pod("", corev1.PodPending, zero)), nil, 0, verdict{wait: 2 * time.Second}},
		"deleted without a node, and held by another": {pod("", corev1.PodFailed, zero), nil, 0, verdict{}},
		"its node is missing for a second":            {pod("n", corev1.PodRunning, nil), nil, time.Second, verdict{wait: 39 * time.Second}},
		"its node is missing for long":                {pod("n", corev1.PodRunning, nil), nil, 40 * time.Second, verdict{reason: metrics.PodGCReasonOrphaned}},
		"ended, its node is missing for long":         {pod("n", corev1.PodSucceeded, nil), nil, time.Hour, verdict{reason: metrics.PodGCReasonOrphaned}},
		"orphaned, deleted and held by another":       {pod("n", corev1.PodFailed, zero), nil, time.Hour, verdict{}},
		"ends on a dead node":                         {pod("n", corev1.PodRunning, thirty), dead, 0, verdict{reason: metrics.PodGCReasonTerminatingOutOfService}},
		"stays on a dead node":                        {pod("n", corev1.PodRunning, nil), dead, 0, verdict{}},
		"ends on a node that lives after all":         {pod("n", corev1.PodRunning, thirty), node(corev1.ConditionTrue, corev1.TaintNodeOutOfService), 0, verdict{}},
		"ends on a node that is only silent":          {pod("n", corev1.PodRunning, thirty), node(corev1.ConditionUnknown), 0, verdict{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := plan(c.pod, c.node, now.Add(-c.missing), now, Quarantine); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSurplus(t *testing.T) {
	var pods []*corev1.Pod
	for i, reason := range []string{"", "", "Evicted", "", "Evicted"} {
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), CreationTimestamp: metav1.Unix(int64(i/2), 0)},
			Status:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason},
		})
	}
	for threshold, want := range map[int]string{5: "[]", 4: "[2]", 1: "[2 4 0 1]", 0: "[2 4 0 1 3]"} {
		got := []string{}
		for _, p := range surplus(pods, threshold) {
			got = append(got, p.Name)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("threshold %d: %v, want %s", threshold, got, want)
		}
	}
}
