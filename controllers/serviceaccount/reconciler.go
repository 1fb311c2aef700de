package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Reconciler creates the ServiceAccount of a namespace.
type Reconciler struct {
	client client.Client
}

// New makes a reconciler; it talks to nobody.
func New() *Reconciler { return &Reconciler{} }

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.client = mgr.GetClient()
	return shared.InEachNamespace(mgr, names.ServiceAccountController, &corev1.ServiceAccount{}, Name, r)
}

// Reconcile creates the ServiceAccount if it is missing.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var ns corev1.Namespace
	if err := r.client.Get(ctx, req.NamespacedName, &ns); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: ns.Name, Name: Name}, &corev1.ServiceAccount{})
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	sa := plan(&ns, err == nil)
	if sa == nil {
		return reconcile.Result{}, nil
	}
	err = r.client.Create(ctx, sa)
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil // the cache is behind
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
