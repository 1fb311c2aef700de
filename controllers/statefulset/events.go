package statefulset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onClaim asks for the sets whose claim it is by its name: few claims have an
// owner.
func (r *Reconciler) onClaim() handler.Funcs {
	ask := func(q shared.Queue, o client.Object) {
		sets, err := r.sets.StatefulSets(o.GetNamespace()).List(labels.Everything())
		if err != nil {
			return // a lister of a cache has no other error than a selector's
		}
		for _, set := range sets {
			if claims(set, o.GetName()) {
				q.Add(shared.Request(set))
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { ask(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) { ask(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) { ask(q, e.Object) },
	}
}

// askOwner tells whether the Pod has a controller at all.
func (r *Reconciler) askOwner(q shared.Queue, pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return false
	}
	if ref.Kind == kind.Kind {
		if set, err := r.sets.StatefulSets(pod.Namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
			q.Add(shared.Request(set))
		}
	}
	return true
}

func (r *Reconciler) askAdopters(q shared.Queue, pod *corev1.Pod) {
	sets, err := r.sets.GetPodStatefulSets(pod)
	if err != nil {
		return // none select it
	}
	for _, set := range sets {
		q.Add(shared.Request(set))
	}
}

// onSet asks for the set, and forgets one that is gone.
func (r *Reconciler) onSet() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { q.Add(shared.Request(e.Object)) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) { q.Add(shared.Request(e.ObjectNew)) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) {
			if set, ok := e.Object.(*appsv1.StatefulSet); ok {
				r.written.Clear(shared.Request(set).NamespacedName, set.UID)
				q.Add(shared.Request(set))
			}
		},
	}
}
