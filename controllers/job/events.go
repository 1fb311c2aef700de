package job

import (
	"context"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/job/util"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onPod meets expectations and asks for the Pod's Job, or for those that may
// adopt it.
func (r *Reconciler) onPod() handler.Funcs {
	return shared.On(r.podCreated, r.podUpdated, r.podDeleted)
}

func (r *Reconciler) podDeleted(ctx context.Context, q shared.Queue, pod *corev1.Pod) {
	r.podEnds(ctx, q, pod)
	if job := r.owner(pod); job != nil {
		r.released.seen(shared.Request(job).NamespacedName, pod.UID)
	}
}

func (r *Reconciler) podCreated(ctx context.Context, q shared.Queue, pod *corev1.Pod) {
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
		r.expectations.CreationObserved(klog.FromContext(ctx), shared.Request(job).String())
		q.Add(shared.Request(job))
	}
}

func (r *Reconciler) podUpdated(ctx context.Context, q shared.Queue, old, now *corev1.Pod) {
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
				r.released.seen(shared.Request(job).NamespacedName, now.UID)
			}
			q.Add(shared.Request(job))
		}
	}
	if metav1.GetControllerOf(now) == nil && (moved || !maps.Equal(old.Labels, now.Labels)) {
		r.orphan(q, now)
	}
}

// podEnds is for a Pod that is being deleted, or is gone.
func (r *Reconciler) podEnds(ctx context.Context, q shared.Queue, pod *corev1.Pod) {
	job := r.owner(pod)
	if job == nil || util.IsJobFinished(job) {
		return
	}
	r.expectations.DeletionObserved(klog.FromContext(ctx), shared.Request(job).String())
	if !tracked(pod) {
		r.released.seen(shared.Request(job).NamespacedName, pod.UID)
	}
	q.Add(shared.Request(job))
}

// orphan asks for the Jobs that may adopt the Pod.
func (r *Reconciler) orphan(q shared.Queue, pod *corev1.Pod) {
	jobs, err := r.jobs.GetPodJobs(pod)
	if err != nil {
		return // none select it
	}
	for i := range jobs {
		q.Add(shared.Request(&jobs[i]))
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
