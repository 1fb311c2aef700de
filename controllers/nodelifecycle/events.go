package nodelifecycle

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

func request(node string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: node}}
}

// onLease notes renewals. It asks for no node: a kubelet that comes back posts
// its status, and one that stays away has its deadline.
func (r *Reconciler) onLease() handler.Funcs {
	note := func(o any) {
		if lease, ok := o.(*coordinationv1.Lease); ok && lease.Namespace == corev1.NamespaceNodeLease {
			r.renewed(lease)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ shared.Queue) { note(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ shared.Queue) { note(e.ObjectNew) },
	}
}

// onPod asks for the node of a Pod that got one: if that is silent, the Pod is
// not ready.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*corev1.Pod)
			now, ok2 := e.ObjectNew.(*corev1.Pod)
			if !ok || !ok2 || now.Spec.NodeName == "" || old.Spec.NodeName == now.Spec.NodeName {
				return
			}
			if node, err := r.nodes.Get(now.Spec.NodeName); err == nil {
				if ready := condition(node, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionUnknown {
					q.Add(request(node.Name))
				}
			}
		},
	}
}
