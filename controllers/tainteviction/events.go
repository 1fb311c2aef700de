package tainteviction

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onPod asks for a Pod that comes, goes, gets its node, or tolerates more.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { q.Add(shared.Request(e.Object)) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*corev1.Pod)
			now, ok2 := e.ObjectNew.(*corev1.Pod)
			if ok && ok2 && !(old.UID == now.UID && old.Spec.NodeName == now.Spec.NodeName && equality.Semantic.DeepEqual(old.Spec.Tolerations, now.Spec.Tolerations)) {
				q.Add(shared.Request(now))
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) { q.Add(shared.Request(e.Object)) },
	}
}

// onNode asks for the Pods of a node whose taints evict others than before.
func (r *Reconciler) onNode() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) {
			shared.AskForPodsOn(q, r.pods, e.Object.GetName())
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*corev1.Node)
			now, ok2 := e.ObjectNew.(*corev1.Node)
			if ok && ok2 && !equality.Semantic.DeepEqual(noExecute(old.Spec.Taints), noExecute(now.Spec.Taints)) {
				shared.AskForPodsOn(q, r.pods, now.Name)
			}
		},
	}
}
