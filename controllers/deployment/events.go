package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onPod asks for a deleted Pod's Deployment if it waits for its Pods to end.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) {
			ref := metav1.GetControllerOf(e.Object)
			if ref == nil || ref.Kind != "ReplicaSet" {
				return
			}
			rs, err := r.sets.ReplicaSets(e.Object.GetNamespace()).Get(ref.Name)
			if err != nil || rs.UID != ref.UID {
				return
			}
			if d := r.owner(rs); d != nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				q.Add(shared.Request(d))
			}
		},
	}
}

// askOwner tells whether the set has an owner at all.
func (r *Reconciler) askOwner(q shared.Queue, rs *appsv1.ReplicaSet) bool {
	if d := r.owner(rs); d != nil {
		q.Add(shared.Request(d))
	}
	return metav1.GetControllerOf(rs) != nil
}

func (r *Reconciler) askAdopters(q shared.Queue, rs *appsv1.ReplicaSet) {
	found, err := util.GetDeploymentsForReplicaSet(r.deployments, rs)
	if err != nil {
		return // none select it
	}
	for _, d := range found {
		q.Add(shared.Request(d))
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
