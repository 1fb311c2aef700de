package podgc

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// all asks for the number of Pods that have ended.
var all = reconcile.Request{}

// onPod asks for a Pod that may have to go.
func (r *Reconciler) onPod() handler.Funcs {
	look := func(o any, q shared.Queue) {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			return
		}
		if pod.DeletionTimestamp != nil || r.missingNode(pod) {
			q.Add(shared.Request(pod))
		}
		if r.cfg.Threshold > 0 && ended(pod) {
			q.Add(all)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { look(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) { look(e.ObjectNew, q) },
	}
}

// onNode asks for the Pods of a node that is gone or out of service.
func (r *Reconciler) onNode() handler.Funcs {
	look := func(o any, q shared.Queue) {
		if node, ok := o.(*corev1.Node); ok {
			r.forget(node.Name)
			if outOfService(node) {
				shared.AskForPodsOn(q, r.pods, node.Name)
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { look(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) { look(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) {
			shared.AskForPodsOn(q, r.pods, e.Object.GetName())
		},
	}
}
