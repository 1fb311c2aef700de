package ttlafterfinished

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Config is what the reconciler works with.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Clock     clock.WithTicker
}

// Reconciler deletes Jobs whose time is over.
type Reconciler struct {
	cfg  Config
	jobs batchlisters.JobLister
}

// New makes a reconciler; it starts nothing.
func New(cfg Config) *Reconciler {
	return &Reconciler{cfg: cfg, jobs: cfg.Informers.Batch().V1().Jobs().Lister()}
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.TTLAfterFinishedController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		For(&batchv1.Job{}).
		Complete(r)
}

// Reconcile deletes the Job, its Pods first, if its time is over by what the
// server has, not only by the cache.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	job, err := r.jobs.Jobs(req.Namespace).Get(req.Name)
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	expired, after := plan(job, r.cfg.Clock.Now())
	if !expired {
		return reconcile.Result{RequeueAfter: after}, nil
	}
	jobs := r.cfg.Client.BatchV1().Jobs(req.Namespace)
	if job, err = jobs.Get(ctx, req.Name, metav1.GetOptions{}); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if expired, after = plan(job, r.cfg.Clock.Now()); !expired {
		return reconcile.Result{RequeueAfter: after}, nil
	}
	err = jobs.Delete(ctx, req.Name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground), Preconditions: &metav1.Preconditions{UID: &job.UID},
	})
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("delete Job %s, whose time to live is over: %w", req, err)
	}
	return reconcile.Result{}, nil
}
