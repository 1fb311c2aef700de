package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/utils/ptr"
)

func tolerations(of map[string]*int64) (all []corev1.Toleration) {
	for key, seconds := range of {
		all = append(all, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds})
	}
	return all
}

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		tolerates map[string]*int64
		taints    []string
		want      verdict
		after     time.Duration
	}{
		"no taint":                  {tolerates: nil, want: cancel},
		"no toleration":             {taints: []string{"a"}, want: evict},
		"another one":               {tolerates: map[string]*int64{"b": nil}, taints: []string{"a"}, want: evict},
		"one of two":                {tolerates: map[string]*int64{"a": ptr.To[int64](9)}, taints: []string{"a", "b"}, want: evict},
		"for ever":                  {tolerates: map[string]*int64{"a": nil}, taints: []string{"a"}, want: cancel},
		"for a while":               {tolerates: map[string]*int64{"a": ptr.To[int64](9)}, taints: []string{"a"}, want: await, after: 9 * time.Second},
		"the shortest of two":       {tolerates: map[string]*int64{"a": ptr.To[int64](9), "b": ptr.To[int64](3)}, taints: []string{"a", "b"}, want: await, after: 3 * time.Second},
		"one for ever, one a while": {tolerates: map[string]*int64{"a": nil, "b": ptr.To[int64](3)}, taints: []string{"a", "b"}, want: await, after: 3 * time.Second},
		"no time":                   {tolerates: map[string]*int64{"a": ptr.To[int64](0)}, taints: []string{"a"}, want: await},
		"less than none":            {tolerates: map[string]*int64{"a": ptr.To[int64](-5), "b": ptr.To[int64](3)}, taints: []string{"a", "b"}, want: await},
		"a short one that is not of a taint here": {tolerates: map[string]*int64{"a": ptr.To[int64](9), "b": ptr.To[int64](3)}, taints: []string{"a"}, want: await, after: 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: tolerations(c.tolerates)}}
			taints := []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}
			for _, key := range c.taints {
				taints = append(taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
			}
			if got, after := plan(pod, noExecute(taints)); got != c.want || after != c.after {
				t.Errorf("%v after %v, want %v after %v", got, after, c.want, c.after)
			}
		})
	}
}

func TestMarked(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pod := &corev1.Pod{}
	status := marked(pod, now)
	if status == nil {
		t.Fatal("nothing to say")
	}
	if _, c := apipod.GetPodCondition(status, corev1.DisruptionTarget); !c.LastTransitionTime.Time.Equal(now) || c.Reason != "DeletionByTaintManager" {
		t.Error(c)
	}
	pod.Status = *status
	if again := marked(pod, now.Add(time.Hour)); again != nil {
		t.Errorf("said twice: %v", again.Conditions)
	}
	if evicted(pod) {
		t.Error("evicted before its deletion")
	}
	pod.DeletionTimestamp = &metav1.Time{Time: now}
	if !evicted(pod) {
		t.Error("not evicted")
	}
	pod.Status = corev1.PodStatus{}
	if evicted(pod) {
		t.Error("deleted by another is evicted")
	}
}
