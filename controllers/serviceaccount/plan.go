package serviceaccount

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Name is the ServiceAccount that every namespace has.
const Name = "default"

// plan returns the ServiceAccount to create, or nil. A namespace that is not
// active takes no new objects.
func plan(ns *corev1.Namespace, exists bool) *corev1.ServiceAccount {
	if exists || ns.Status.Phase != corev1.NamespaceActive {
		return nil
	}
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: Name}}
}
