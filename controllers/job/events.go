package job

import (
	"context"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/job/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(o client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)}
}

// onJob asks for the Job, and forgets one that is gone.
func (r *Reconciler) onJob() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { q.Add(request(e.Object)) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if e.ObjectOld.GetUID() != e.ObjectNew.GetUID() {
				// A watch that was cut shows one deleted and made again as a change.
				r.forget(ctx, client.ObjectKeyFromObject(e.ObjectOld), e.ObjectOld.GetUID())
			}
			q.Add(request(e.ObjectNew))
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.forget(ctx, client.ObjectKeyFromObject(e.Object), e.Object.GetUID())
			q.Add(request(e.Object))
		},
	}
}

// onPod meets expectations and asks for the Pod's Job, or for those that may
// adopt it.
func (r *Reconciler) onPod() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				r.podCreated(ctx, q, pod)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			old, ok := e.ObjectOld.(*corev1.Pod)
			now, ok2 := e.ObjectNew.(*corev1.Pod)
			if ok && ok2 && old.ResourceVersion != now.ResourceVersion {
				r.podUpdated(ctx, q, old, now)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				r.podEnds(ctx, q, pod)
				if job := r.owner(pod); job != nil {
					r.released.seen(request(job).NamespacedName, pod.UID)
				}
			}
		},
	}
}

func (r *Reconciler) podCreated(ctx context.Context, q queue, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		// First seen after a restart: nobody waits for its creation.
		r.podEnds(ctx, q, pod)
		return
	}
	if metav1.GetControllerOf(pod) == nil {
		r.orphan(q, pod)
		return
	}
	if job := r.owner(pod); job != nil {
		r.expectations.CreationObserved(klog.FromContext(ctx), request(job).String())
		q.Add(request(job))
	}
}

func (r *Reconciler) podUpdated(ctx context.Context, q queue, old, now *corev1.Pod) {
	if now.DeletionTimestamp != nil {
		r.podEnds(ctx, q, now)
		return
	}
	moved := !equality.Semantic.DeepEqual(metav1.GetControllerOf(now), metav1.GetControllerOf(old))
	pods := []*corev1.Pod{now}
	if moved {
		pods = append(pods, old)
	}
	for _, pod := range pods {
		if job := r.owner(pod); job != nil {
			if !tracked(now) {
				r.released.seen(request(job).NamespacedName, now.UID)
			}
			q.Add(request(job))
		}
	}
	if metav1.GetControllerOf(now) == nil && (moved || !maps.Equal(old.Labels, now.Labels)) {
		r.orphan(q, now)
	}
}

// podEnds is for a Pod that is being deleted, or is gone.
func (r *Reconciler) podEnds(ctx context.Context, q queue, pod *corev1.Pod) {
	job := r.owner(pod)
	if job == nil || util.IsJobFinished(job) {
		return
	}
	r.expectations.DeletionObserved(klog.FromContext(ctx), request(job).String())
	if !tracked(pod) {
		r.released.seen(request(job).NamespacedName, pod.UID)
	}
	q.Add(request(job))
}

// orphan asks for the Jobs that may adopt the Pod.
func (r *Reconciler) orphan(q queue, pod *corev1.Pod) {
	jobs, err := r.jobs.GetPodJobs(pod)
	if err != nil {
		return // none select it
	}
	for i := range jobs {
		q.Add(request(&jobs[i]))
	}
}

// owner is the Job that controls the Pod, or nil.
func (r *Reconciler) owner(pod *corev1.Pod) *batchv1.Job {
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	job, err := r.jobs.Jobs(pod.Namespace).Get(ref.Name)
	if err != nil || job.UID != ref.UID {
		return nil
	}
	return job
}
