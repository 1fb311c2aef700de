package serviceaccount

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		phase  corev1.NamespacePhase
		exists bool
		want   bool
	}{
		"an active namespace without it":   {corev1.NamespaceActive, false, true},
		"an active namespace with it":      {corev1.NamespaceActive, true, false},
		"a terminating namespace takes no": {corev1.NamespaceTerminating, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			ns := &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: c.phase}}
			if got := plan(ns, c.exists); (got != nil) != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}
