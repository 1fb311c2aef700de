package shared

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/utils/clock"
)

// Config is what most reconcilers work with.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Recorder writes events as upstream's controller of the same name.
	Recorder record.EventRecorder
	Clock    clock.WithTicker
}

// podResource is what consistency stores know Pods by.
var podResource = corev1.Resource("pods")

// PodControl writes Pods, and has written know which writes about their owners
// the cache is to see.
func (c Config) PodControl(written consistency.ConsistencyStore) controller.RealPodControl {
	return controller.RealPodControl{KubeClient: c.Client, Recorder: c.Recorder, OnWrite: func(pod *corev1.Pod, owner *metav1.OwnerReference) {
		if owner != nil {
			written.WroteAt(types.NamespacedName{Namespace: pod.Namespace, Name: owner.Name}, owner.UID, podResource, pod.ResourceVersion)
		}
	}}
}

// PodsOn are the Pods of a node, from an index that
// controller.AddPodNodeNameIndexer has made.
func PodsOn(pods cache.Indexer, node string) ([]*corev1.Pod, error) {
	found, err := pods.ByIndex(controller.PodNodeNameKeyIndex, node)
	if err != nil {
		return nil, err
	}
	var on []*corev1.Pod
	for _, o := range found {
		if pod, ok := o.(*corev1.Pod); ok {
			on = append(on, pod)
		}
	}
	return on, nil
}

// AskForPodsOn asks for the Pods of a node, as PodsOn has them.
func AskForPodsOn(q Queue, pods cache.Indexer, node string) {
	on, err := PodsOn(pods, node)
	if err != nil {
		return // the index is there since the reconciler is
	}
	for _, pod := range on {
		q.Add(Request(pod))
	}
}
