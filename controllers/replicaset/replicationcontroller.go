package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/apis/apps"
	internalappsv1 "k8s.io/kubernetes/pkg/apis/apps/v1"
	internalcorev1 "k8s.io/kubernetes/pkg/apis/core/v1"
)

// replicationControllers are ReplicationControllers seen as ReplicaSets, by
// the API server's own conversions.
func replicationControllers(c kubernetes.Interface, factory informers.SharedInformerFactory) resource {
	informer := factory.Core().V1().ReplicationControllers()
	return resource{
		name:     names.ReplicationControllerController,
		kind:     corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		group:    corev1.Resource("replicationcontrollers"),
		watched:  &corev1.ReplicationController{},
		informer: informer.Informer(),
		sets:     setLister{informer.Lister()},
		object:   func(rs *appsv1.ReplicaSet) (runtime.Object, error) { return toController(rs) },
		get: func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error) {
			return asSet(c.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{}))
		},
		updateStatus: func(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
			rc, err := toController(rs)
			if err != nil {
				return nil, err
			}
			return asSet(c.CoreV1().ReplicationControllers(rs.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{}))
		},
	}
}

// asSet is toSet of what a call returns.
func asSet(rc *corev1.ReplicationController, err error) (*appsv1.ReplicaSet, error) {
	if err != nil {
		return nil, err
	}
	return toSet(rc)
}

func toSet(rc *corev1.ReplicationController) (*appsv1.ReplicaSet, error) {
	// Conversions share what they can, and the cache's objects are not ours.
	rc = rc.DeepCopy()
	var internal apps.ReplicaSet
	if err := internalcorev1.Convert_v1_ReplicationController_To_apps_ReplicaSet(rc, &internal, nil); err != nil {
		return nil, fmt.Errorf("convert ReplicationController %s/%s: %w", rc.Namespace, rc.Name, err)
	}
	var rs appsv1.ReplicaSet
	if err := internalappsv1.Convert_apps_ReplicaSet_To_v1_ReplicaSet(&internal, &rs, nil); err != nil {
		return nil, fmt.Errorf("convert ReplicationController %s/%s: %w", rc.Namespace, rc.Name, err)
	}
	return &rs, nil
}

func toController(rs *appsv1.ReplicaSet) (*corev1.ReplicationController, error) {
	var internal apps.ReplicaSet
	if err := internalappsv1.Convert_v1_ReplicaSet_To_apps_ReplicaSet(rs.DeepCopy(), &internal, nil); err != nil {
		return nil, fmt.Errorf("convert to ReplicationController %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	var rc corev1.ReplicationController
	if err := internalcorev1.Convert_apps_ReplicaSet_To_v1_ReplicationController(&internal, &rc, nil); err != nil {
		return nil, fmt.Errorf("convert to ReplicationController %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return &rc, nil
}

func toSets(rcs []*corev1.ReplicationController) ([]*appsv1.ReplicaSet, error) {
	sets := make([]*appsv1.ReplicaSet, len(rcs))
	for i, rc := range rcs {
		var err error
		if sets[i], err = toSet(rc); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// setLister lists ReplicationControllers as ReplicaSets.
type setLister struct {
	corelisters.ReplicationControllerLister
}

func (l setLister) List(selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	rcs, err := l.ReplicationControllerLister.List(selector)
	if err != nil {
		return nil, err
	}
	return toSets(rcs)
}

func (l setLister) ReplicaSets(namespace string) appslisters.ReplicaSetNamespaceLister {
	return namespacedSetLister{l.ReplicationControllers(namespace)}
}

func (l setLister) GetPodReplicaSets(pod *corev1.Pod) ([]*appsv1.ReplicaSet, error) {
	rcs, err := l.GetPodControllers(pod)
	if err != nil {
		return nil, err
	}
	return toSets(rcs)
}

type namespacedSetLister struct {
	corelisters.ReplicationControllerNamespaceLister
}

func (l namespacedSetLister) List(selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	rcs, err := l.ReplicationControllerNamespaceLister.List(selector)
	if err != nil {
		return nil, err
	}
	return toSets(rcs)
}

func (l namespacedSetLister) Get(name string) (*appsv1.ReplicaSet, error) {
	return asSet(l.ReplicationControllerNamespaceLister.Get(name))
}
