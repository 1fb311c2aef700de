package shared

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// InEachNamespace registers a reconciler of Namespaces that keeps one object
// in each, of the kind and name given: it is called for the Namespace and for
// the object.
func InEachNamespace(mgr ctrl.Manager, controller string, kind client.Object, name string, r reconcile.Reconciler) error {
	named := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetName() == name })
	return ctrl.NewControllerManagedBy(mgr).
		Named(controller).
		WithOptions(Quiet()).
		For(&corev1.Namespace{}).
		Watches(kind, handler.EnqueueRequestsFromMapFunc(namespaceOf), builder.WithPredicates(named)).
		Complete(r)
}

func namespaceOf(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetNamespace()}}}
}
