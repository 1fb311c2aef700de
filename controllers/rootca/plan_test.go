package rootca

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
)

func TestPlan(t *testing.T) {
	active := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	ending := active.DeepCopy()
	ending.Status.Phase = corev1.NamespaceTerminating
	right := plan(active, nil, []byte("ca"))
	if right == nil || right.Data["ca.crt"] != "ca" || right.Annotations[rootcacertpublisher.DescriptionAnnotation] == "" {
		t.Fatalf("%v", right)
	}
	spoiled := func(change func(*corev1.ConfigMap)) *corev1.ConfigMap {
		cm := right.DeepCopy()
		change(cm)
		return cm
	}
	for name, c := range map[string]struct {
		ns   *corev1.Namespace
		have *corev1.ConfigMap
		want bool
	}{
		"as it should be":         {active, right, false},
		"another description":     {active, spoiled(func(cm *corev1.ConfigMap) { cm.Annotations[rootcacertpublisher.DescriptionAnnotation] = "mine" }), false},
		"somebody's label":        {active, spoiled(func(cm *corev1.ConfigMap) { cm.Labels = map[string]string{"a": "b"} }), false},
		"no description":          {active, spoiled(func(cm *corev1.ConfigMap) { cm.Annotations = nil }), true},
		"another CA":              {active, spoiled(func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = "other" }), true},
		"more data":               {active, spoiled(func(cm *corev1.ConfigMap) { cm.Data["x"] = "y" }), true},
		"none while terminating":  {ending, nil, false},
		"wrong while terminating": {ending, spoiled(func(cm *corev1.ConfigMap) { cm.Data = nil }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := plan(c.ns, c.have, []byte("ca")); (got != nil) != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}
