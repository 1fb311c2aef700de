package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

// TestDecide: what becomes of a plan when the node changes.
func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	name := types.NamespacedName{Namespace: "ns", Name: "a"}
	planned := &eviction{pod: "1", at: now.Add(time.Minute)}
	begun := &eviction{pod: "1", at: now, told: true}
	for what, c := range map[string]struct {
		before *eviction
		taints []string // nil: the node is gone
		at     time.Duration
		none   bool
		say    int
	}{
		"nothing, and no taint":                 {taints: []string{}, none: true},
		"nothing, and the node is gone":         {none: true},
		"a taint that is tolerated":             {taints: []string{"a"}, at: 9 * time.Second},
		"a taint that is not":                   {taints: []string{"b"}, at: 0},
		"planned, and the node is gone":         {before: planned, at: time.Minute},
		"planned, and tolerated for less":       {before: planned, taints: []string{"a"}, at: time.Minute},
		"planned, and the taint is gone":        {before: planned, taints: []string{}, none: true, say: 1},
		"planned, and one that is not":          {before: planned, taints: []string{"a", "b"}, at: 0, say: 1},
		"begun, and the taint is gone":          {before: begun, taints: []string{}, none: true},
		"begun, and it is tolerated for a time": {before: begun, taints: []string{"a"}, at: 0},
		"begun, and it is not tolerated":        {before: begun, taints: []string{"b"}, at: 0},
	} {
		t.Run(what, func(t *testing.T) {
			nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
			if c.taints != nil {
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
				for _, key := range c.taints {
					n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
				}
				if err := nodes.Add(n); err != nil {
					t.Fatal(err)
				}
			}
			events := record.NewFakeRecorder(9)
			r := &Reconciler{
				cfg:   Config{Clock: clocktesting.NewFakeClock(now), Recorder: events},
				nodes: corelisters.NewNodeLister(nodes), planned: map[types.NamespacedName]*eviction{},
			}
			if c.before != nil {
				r.planned[name] = ptr.To(*c.before)
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1"}, Spec: corev1.PodSpec{
				NodeName: "n", Tolerations: tolerations(map[string]*int64{"a": ptr.To[int64](9)}),
			}}
			e := r.decide(name, pod)
			switch {
			case c.none && (e != nil || r.planned[name] != nil):
				t.Errorf("planned %v, %v", e, r.planned[name])
			case !c.none && (e == nil || r.planned[name] != e || !e.at.Equal(now.Add(c.at))):
				t.Errorf("planned %v, want %v", e, now.Add(c.at))
			}
			if len(events.Events) != c.say {
				t.Errorf("%d events, want %d", len(events.Events), c.say)
			}
		})
	}
}
