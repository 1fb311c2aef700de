package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/namespace/deletion"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Config is what the reconciler writes through.
type Config struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	Clock    clock.PassiveClock
}

// Reconciler deletes the content of terminating namespaces.
type Reconciler struct {
	cfg    Config
	reader client.Reader
	// sweep deletes all content and leaves the namespace's finalizer.
	sweep deletion.NamespacedResourcesDeleterInterface
	// finish does the same and takes the finalizer off.
	finish deletion.NamespacedResourcesDeleterInterface
}

// New makes a reconciler; it talks to nobody.
func New(cfg Config) *Reconciler {
	return &Reconciler{cfg: cfg}
}

// SetupWithManager registers the reconciler. The API server must answer: the
// library asks it for all kinds, and ends the process when there are none.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	found, err := r.cfg.Client.Discovery().ServerPreferredNamespacedResources()
	if len(found) == 0 {
		return fmt.Errorf("discover namespaced kinds: %w", errors.Join(err, errors.New("none found")))
	}
	// While the two deleters are made they get what was found just now.
	made := false
	discover := func() ([]*metav1.APIResourceList, error) {
		if !made {
			return found, nil
		}
		return r.cfg.Client.Discovery().ServerPreferredNamespacedResources()
	}
	namespaces := r.cfg.Client.CoreV1().Namespaces()
	r.reader = mgr.GetClient()
	r.sweep = deletion.NewNamespacedResourcesDeleter(ctx, withoutFinalize{namespaces}, r.cfg.Metadata, r.cfg.Client.CoreV1(), discover, corev1.FinalizerKubernetes)
	r.finish = deletion.NewNamespacedResourcesDeleter(ctx, namespaces, r.cfg.Metadata, r.cfg.Client.CoreV1(), discover, corev1.FinalizerKubernetes)
	made = true
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.NamespaceController).
		For(&corev1.Namespace{}, builder.WithPredicates(predicate.NewPredicateFuncs(terminating))).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.emptied), builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(event.UpdateEvent) bool { return false },
		})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 10,
			// As upstream: retried at least every minute.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, time.Minute),
		}).
		Complete(r)
}

func terminating(o client.Object) bool { return o.GetDeletionTimestamp() != nil }

// emptied asks for the namespace of a deleted Pod when the namespace is
// terminating and this was its last Pod.
func (r *Reconciler) emptied(ctx context.Context, pod client.Object) []reconcile.Request {
	var ns corev1.Namespace
	if err := r.reader.Get(ctx, client.ObjectKey{Name: pod.GetNamespace()}, &ns); err != nil || !terminating(&ns) {
		return nil
	}
	var rest corev1.PodList
	if err := r.reader.List(ctx, &rest, client.InNamespace(ns.Name), client.Limit(1)); err == nil && len(rest.Items) > 0 {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(&ns)}}
}

// Reconcile deletes what the namespace holds, and the namespace when nothing
// is left.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var ns corev1.Namespace
	if err := r.reader.Get(ctx, req.NamespacedName, &ns); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !terminating(&ns) || len(ns.Spec.Finalizers) == 0 {
		return reconcile.Result{}, nil
	}
	err := r.sweep.Delete(ctx, ns.Name)
	if err == nil {
		err = r.finish.Delete(ctx, ns.Name)
	}
	var remaining *deletion.ResourcesRemainingError
	if errors.As(err, &remaining) {
		after := recheckAfter(r.cfg.Clock.Since(ns.DeletionTimestamp.Time), remaining.Estimate)
		return reconcile.Result{RequeueAfter: after}, nil
	}
	return reconcile.Result{}, err
}

// withoutFinalize makes the library stop short of finalizing.
type withoutFinalize struct {
	typedcorev1.NamespaceInterface
}

func (withoutFinalize) Finalize(_ context.Context, ns *corev1.Namespace, _ metav1.UpdateOptions) (*corev1.Namespace, error) {
	return ns, nil
}
