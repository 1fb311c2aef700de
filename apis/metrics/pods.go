package metrics

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// podMetadata shows the server's Pods as metrics-server keeps them: without
// spec and status.
type podMetadata struct{ pods corelisters.PodLister }

func (m podMetadata) List(selector labels.Selector) ([]runtime.Object, error) {
	return m.ByNamespace(metav1.NamespaceAll).List(selector)
}

func (m podMetadata) Get(name string) (runtime.Object, error) {
	return m.ByNamespace(metav1.NamespaceAll).Get(name)
}

func (m podMetadata) ByNamespace(namespace string) cache.GenericNamespaceLister {
	return namespaceMetadata{m.pods.Pods(namespace)}
}

type namespaceMetadata struct {
	pods corelisters.PodNamespaceLister
}

func (m namespaceMetadata) List(selector labels.Selector) ([]runtime.Object, error) {
	pods, err := m.pods.List(selector)
	if err != nil {
		return nil, err
	}
	objects := make([]runtime.Object, 0, len(pods))
	for _, pod := range pods {
		objects = append(objects, metadataOf(pod))
	}
	return objects, nil
}

func (m namespaceMetadata) Get(name string) (runtime.Object, error) {
	pod, err := m.pods.Get(name)
	if err != nil {
		return nil, err
	}
	return metadataOf(pod), nil
}

func metadataOf(pod *corev1.Pod) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: pod.ObjectMeta}
}
