package deployment

import (
	"context"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// onReplicaSet asks for a set's Deployment, or for those that may adopt it.
func (r *Reconciler) onReplicaSet() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			if rs, ok := e.Object.(*appsv1.ReplicaSet); ok && !r.askOwner(q, rs) && rs.DeletionTimestamp == nil {
				r.askAdopters(q, rs)
			}
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			old, ok := e.ObjectOld.(*appsv1.ReplicaSet)
			now, ok2 := e.ObjectNew.(*appsv1.ReplicaSet)
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
			if rs, ok := e.Object.(*appsv1.ReplicaSet); ok {
				r.askOwner(q, rs)
			}
		},
	}
}

// onPod asks for a deleted Pod's Deployment if it waits for its Pods to end.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			ref := metav1.GetControllerOf(e.Object)
			if ref == nil || ref.Kind != "ReplicaSet" {
				return
			}
			rs, err := r.sets.ReplicaSets(e.Object.GetNamespace()).Get(ref.Name)
			if err != nil || rs.UID != ref.UID {
				return
			}
			if d := r.owner(rs); d != nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				q.Add(request(d))
			}
		},
	}
}

// askOwner tells whether the set has an owner at all.
func (r *Reconciler) askOwner(q queue, rs *appsv1.ReplicaSet) bool {
	if d := r.owner(rs); d != nil {
		q.Add(request(d))
	}
	return metav1.GetControllerOf(rs) != nil
}

func (r *Reconciler) askAdopters(q queue, rs *appsv1.ReplicaSet) {
	found, err := util.GetDeploymentsForReplicaSet(r.deployments, rs)
	if err != nil {
		return // none select it
	}
	for _, d := range found {
		q.Add(request(d))
	}
}

// owner is the Deployment that controls the set, or nil.
func (r *Reconciler) owner(rs *appsv1.ReplicaSet) *appsv1.Deployment {
	ref := metav1.GetControllerOf(rs)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	d, err := r.deployments.Deployments(rs.Namespace).Get(ref.Name)
	if err != nil || d.UID != ref.UID {
		return nil
	}
	return d
}

func request(o client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)}
}
