package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/job/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// orphans takes the finalizer off Pods that no Job counts any more: their Job
// is gone or over, or they were let go.
type orphans struct{ *Reconciler }

func (o orphans) setup(mgr ctrl.Manager, name string) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(name+"-orphans").
		WithOptions(shared.OnClock(o.cfg.Clock)).
		Watches(&corev1.Pod{}, handler.Funcs{
			CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) { o.ask(q, e.Object) },
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) { o.ask(q, e.ObjectNew) },
		}).
		Watches(&batchv1.Job{}, handler.Funcs{
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
				if job, ok := e.ObjectNew.(*batchv1.Job); ok && util.IsJobFinished(job) {
					o.askAll(q, job)
				}
			},
			DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) {
				if job, ok := e.Object.(*batchv1.Job); ok {
					o.askAll(q, job)
				}
			},
		}).
		Complete(o)
}

// ask asks for a Pod that is an orphan, or ends. One that does not end and has
// a controller is left alone: its Job may not have come to the cache yet.
func (o orphans) ask(q shared.Queue, object metav1.Object) {
	pod, ok := object.(*corev1.Pod)
	if ok && tracked(pod) && (pod.DeletionTimestamp != nil || metav1.GetControllerOf(pod) == nil) {
		q.Add(shared.Request(pod))
	}
}

func (o orphans) askAll(q shared.Queue, job *batchv1.Job) {
	pods, err := controller.FilterPodsByOwner(o.podsByOwner, &job.ObjectMeta, kind.Kind, true)
	if err != nil {
		return // the index is ours; there is none without it
	}
	for _, pod := range pods {
		if tracked(pod) {
			q.Add(shared.Request(pod))
		}
	}
}

// Reconcile removes the finalizer of a Pod unless a Job still needs it.
func (o orphans) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pod, err := o.pods.Pods(req.Namespace).Get(req.Name)
	if err != nil || !tracked(pod) {
		return reconcile.Result{}, ignoreNotFound(err)
	}
	if ref := metav1.GetControllerOf(pod); ref != nil {
		if ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
			return reconcile.Result{}, nil
		}
		if job := o.owner(pod); job != nil && (managedElsewhere(job) || !util.IsJobFinished(job)) {
			return reconcile.Result{}, nil
		}
	}
	if err := ignoreNotFound(o.control.PatchPod(ctx, pod.Namespace, pod.Name, removeFinalizer)); err != nil {
		return reconcile.Result{}, fmt.Errorf("finalizer of orphaned Pod %s: %w", req, err)
	}
	return reconcile.Result{}, nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
