package rootca

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
)

// plan returns the ConfigMap to write, or nil when there is nothing to do:
// have is the present one, or nil. What others added to its metadata stays.
func plan(ns *corev1.Namespace, have *corev1.ConfigMap, ca []byte) *corev1.ConfigMap {
	if ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	data := map[string]string{"ca.crt": string(ca)}
	if have == nil {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ns.Name, Name: rootcacertpublisher.RootCACertConfigMapName,
				Annotations: map[string]string{rootcacertpublisher.DescriptionAnnotation: rootcacertpublisher.Description},
			},
			Data: data,
		}
	}
	if maps.Equal(have.Data, data) && have.Annotations[rootcacertpublisher.DescriptionAnnotation] != "" {
		return nil
	}
	want := have.DeepCopy()
	want.Data = data
	metav1.SetMetaDataAnnotation(&want.ObjectMeta, rootcacertpublisher.DescriptionAnnotation, rootcacertpublisher.Description)
	return want
}
