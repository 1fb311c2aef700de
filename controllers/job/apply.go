package job

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// apply deletes and creates Pods, and counts what is left.
func (r *Reconciler) apply(ctx context.Context, v *view, c change) done {
	d := done{active: int32(len(v.active)), ready: v.ready, terminating: v.terminating}
	switch {
	case len(c.end) > 0:
		d.deleted(r.remove(ctx, v, c.end, r.end))
	case len(c.drop) > 0:
		if d.failure = r.expectations.ExpectDeletions(klog.FromContext(ctx), shared.Request(v.job).String(), len(c.drop)); d.failure == nil {
			d.deleted(r.remove(ctx, v, c.drop, r.drop))
		}
	case c.create > 0:
		var made int
		made, d.failure = r.create(ctx, v, c)
		d.active += int32(made)
	}
	d.ended = d.active == 0 && d.failure == nil
	return d
}

// deleted counts Pods that do not run any more.
func (d *done) deleted(pods []*corev1.Pod, failure error) {
	d.active -= int32(len(pods))
	d.terminating += int32(len(pods))
	for _, pod := range pods {
		if podutil.IsPodReady(pod) {
			d.ready--
		}
	}
	d.failure = failure
}

// remove deletes the Pods by one of the two ways below. It returns those that
// are deleted, and a failure.
func (r *Reconciler) remove(ctx context.Context, v *view, pods []*corev1.Pod, by func(context.Context, *view, *corev1.Pod) error) ([]*corev1.Pod, error) {
	removed := make([]*corev1.Pod, len(pods))
	failures := shared.InParallel(len(pods), func(i int) error {
		if err := ignoreNotFound(by(ctx, v, pods[i])); err != nil {
			return err
		}
		removed[i] = pods[i]
		return nil
	})
	var deleted []*corev1.Pod
	for _, pod := range removed {
		if pod != nil {
			deleted = append(deleted, pod)
		}
	}
	return deleted, first(failures)
}

// end deletes a Pod that will be counted.
func (r *Reconciler) end(ctx context.Context, v *view, pod *corev1.Pod) error {
	return r.control.DeletePod(ctx, pod.Namespace, pod.Name, v.job)
}

// drop deletes a Pod that will not.
func (r *Reconciler) drop(ctx context.Context, v *view, pod *corev1.Pod) error {
	err := error(nil)
	if tracked(pod) {
		if err = r.control.PatchPod(ctx, pod.Namespace, pod.Name, removeFinalizer); err != nil {
			err = fmt.Errorf("removing completion finalizer: %w", err)
		}
	}
	if err == nil {
		err = r.control.DeletePod(ctx, pod.Namespace, pod.Name, v.job)
	}
	if err != nil {
		r.expectations.DeletionObserved(klog.FromContext(ctx), shared.Request(v.job).String()) // no event will say so
	}
	return err
}

// create makes Pods, and returns how many it made.
func (r *Reconciler) create(ctx context.Context, v *view, c change) (int, error) {
	log, key := klog.FromContext(ctx), shared.Request(v.job).String()
	if err := r.expectations.ExpectCreations(log, key, c.create); err != nil {
		return 0, err
	}
	base := template(v.job)
	made, err := shared.Doubling(c.create, func(i int) error {
		t, prefix := base, ""
		if len(c.indexes) > 0 {
			t, prefix = templateOf(v.job, base, c.indexes[i], v.kept[c.indexes[i]])
		}
		err := r.control.CreatePodsWithGenerateName(ctx, v.job.Namespace, t, v.job, metav1.NewControllerRef(v.job, kind), prefix)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created any more
		}
		return err
	})
	for range c.create - made {
		r.expectations.CreationObserved(log, key) // no event will say so
	}
	return made, err
}
