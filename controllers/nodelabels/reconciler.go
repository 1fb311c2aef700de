package nodelabels

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Name is the controller's.
const Name = "node-labels"

// Reconciler labels Nodes.
type Reconciler struct {
	client client.Client
	labels map[string]map[string]string
}

// New makes a reconciler that gives labels by Node name; it talks to nobody.
func New(labels map[string]map[string]string) *Reconciler { return &Reconciler{labels: labels} }

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.client = mgr.GetClient()
	// A kubelet writes its Node often; after the first time there is nothing
	// to do.
	lacking := predicate.NewPredicateFuncs(func(o client.Object) bool {
		node, ok := o.(*corev1.Node)
		return ok && patch(node, r.labels[node.Name]) != nil
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		WithOptions(shared.Quiet()).
		For(&corev1.Node{}, builder.WithPredicates(lacking)).
		Complete(r)
}

// Reconcile gives a Node its labels, unless it has got them before.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var node corev1.Node
	if err := r.client.Get(ctx, req.NamespacedName, &node); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	p := patch(&node, r.labels[node.Name])
	if p == nil {
		return reconcile.Result{}, nil
	}
	data, err := json.Marshal(p)
	if err != nil {
		return reconcile.Result{}, err
	}
	err = r.client.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}, client.RawPatch(types.StrategicMergePatchType, data))
	if apierrors.IsConflict(err) {
		// The event of the newer version comes here.
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
