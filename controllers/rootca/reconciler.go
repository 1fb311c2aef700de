package rootca

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Reconciler writes the ConfigMap of a namespace.
type Reconciler struct {
	client client.Client
	ca     []byte
}

// New makes a reconciler that publishes ca, PEM; it talks to nobody.
func New(ca []byte) *Reconciler { return &Reconciler{ca: ca} }

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.client = mgr.GetClient()
	return shared.InEachNamespace(mgr, names.RootCACertificatePublisherController, &corev1.ConfigMap{}, rootcacertpublisher.RootCACertConfigMapName, r)
}

// Reconcile brings the ConfigMap to what it should be.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var ns corev1.Namespace
	if err := r.client.Get(ctx, req.NamespacedName, &ns); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	have := &corev1.ConfigMap{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: ns.Name, Name: rootcacertpublisher.RootCACertConfigMapName}, have)
	switch {
	case apierrors.IsNotFound(err):
		have = nil
	case err != nil:
		return reconcile.Result{}, err
	}
	want := plan(&ns, have, r.ca)
	switch {
	case want == nil:
		return reconcile.Result{}, nil
	case have == nil:
		err = r.client.Create(ctx, want)
	default:
		err = r.client.Update(ctx, want)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil // the cache is behind, its next event comes here
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
