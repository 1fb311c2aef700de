package statefulset

import (
	"context"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(o client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)}
}

// onPod asks for the Pod's set, or for those that may adopt it.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			if pod, ok := e.Object.(*corev1.Pod); ok && !r.askOwner(q, pod) && pod.DeletionTimestamp == nil {
				r.askAdopters(q, pod)
			}
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			old, ok := e.ObjectOld.(*corev1.Pod)
			now, ok2 := e.ObjectNew.(*corev1.Pod)
			if !ok || !ok2 || old.ResourceVersion == now.ResourceVersion {
				return
			}
			moved := !equality.Semantic.DeepEqual(metav1.GetControllerOf(old), metav1.GetControllerOf(now))
			if moved {
				r.askOwner(q, old)
			}
			if !r.askOwner(q, now) && (moved || !maps.Equal(old.Labels, now.Labels)) {
				r.askAdopters(q, now)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				r.askOwner(q, pod)
			}
		},
	}
}

// onClaim asks for the sets whose claim it is by its name: few claims have an
// owner.
func (r *Reconciler) onClaim() handler.Funcs {
	ask := func(q queue, o client.Object) {
		sets, err := r.sets.StatefulSets(o.GetNamespace()).List(labels.Everything())
		if err != nil {
			return // a lister of a cache has no other error than a selector's
		}
		for _, set := range sets {
			if claims(set, o.GetName()) {
				q.Add(request(set))
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { ask(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { ask(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { ask(q, e.Object) },
	}
}

// askOwner tells whether the Pod has a controller at all.
func (r *Reconciler) askOwner(q queue, pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return false
	}
	if ref.Kind == kind.Kind {
		if set, err := r.sets.StatefulSets(pod.Namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
			q.Add(request(set))
		}
	}
	return true
}

func (r *Reconciler) askAdopters(q queue, pod *corev1.Pod) {
	sets, err := r.sets.GetPodStatefulSets(pod)
	if err != nil {
		return // none select it
	}
	for _, set := range sets {
		q.Add(request(set))
	}
}

// onSet asks for the set, and forgets one that is gone.
func (r *Reconciler) onSet() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { q.Add(request(e.Object)) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { q.Add(request(e.ObjectNew)) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			if set, ok := e.Object.(*appsv1.StatefulSet); ok {
				r.written.Clear(request(set).NamespacedName, set.UID)
				q.Add(request(set))
			}
		},
	}
}
