package daemonset

import (
	"context"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onNode asks for all DaemonSets when a Node comes, goes, or takes other Pods
// than before.
func (r *Reconciler) onNode() handler.Funcs {
	all := func(q shared.Queue) {
		sets, err := r.sets.List(labels.Everything())
		if err != nil {
			return // a lister of a cache has no other error than a selector's
		}
		for _, set := range sets {
			q.Add(shared.Request(set))
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q shared.Queue) { all(q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*corev1.Node)
			now, ok2 := e.ObjectNew.(*corev1.Node)
			if ok && ok2 && !(maps.Equal(old.Labels, now.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints)) {
				all(q)
			}
		},
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q shared.Queue) { all(q) },
	}
}

func (r *Reconciler) onPod() handler.Funcs {
	return shared.OnOwned(func(q shared.Queue, pod *corev1.Pod) bool { return r.askOwner(q, pod) }, func(q shared.Queue, pod *corev1.Pod) {
		r.ask(q, func() ([]*appsv1.DaemonSet, error) { return r.sets.GetPodDaemonSets(pod) })
	})
}

func (r *Reconciler) onRevision() handler.Funcs {
	return shared.OnOwned(func(q shared.Queue, c *appsv1.ControllerRevision) bool { return r.askOwner(q, c) }, func(q shared.Queue, c *appsv1.ControllerRevision) {
		r.ask(q, func() ([]*appsv1.DaemonSet, error) { return r.sets.GetHistoryDaemonSets(c) })
	})
}

// ask asks for DaemonSets; an error says that there are none.
func (r *Reconciler) ask(q shared.Queue, list func() ([]*appsv1.DaemonSet, error)) {
	sets, err := list()
	if err != nil {
		return
	}
	for _, set := range sets {
		q.Add(shared.Request(set))
	}
}

// askOwner tells whether the object has a controller at all.
func (r *Reconciler) askOwner(q shared.Queue, o client.Object) bool {
	ref := metav1.GetControllerOf(o)
	if ref == nil {
		return false
	}
	if ref.Kind == kind.Kind {
		if set, err := r.sets.DaemonSets(o.GetNamespace()).Get(ref.Name); err == nil && set.UID == ref.UID {
			q.Add(shared.Request(set))
		}
	}
	return true
}
