package nodelabels

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPatchLabelsANodeOnce(t *testing.T) {
	labels := map[string]string{ControlPlane: ""}
	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}}
	if got, want := patch(fresh, labels), map[string]any{"metadata": map[string]any{
		"resourceVersion": "7", "labels": labels, "annotations": map[string]string{Given: "true"},
	}}; !reflect.DeepEqual(got, want) {
		t.Errorf("a new node: %v, want %v", got, want)
	}
	if got := patch(fresh, nil); got != nil {
		t.Errorf("a node without labels to get: %v", got)
	}
	done := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{Given: "true"}}}
	if got := patch(done, labels); got != nil {
		t.Errorf("a node whose user took the label away: %v", got)
	}
}
