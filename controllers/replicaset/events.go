package replicaset

import (
	"context"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onPod meets expectations and asks for the Pod's ReplicaSet, or for those
// that may adopt it.
func (r *Reconciler) onPod() handler.Funcs {
	return shared.On(r.podCreated, r.podUpdated, r.podDeleted)
}

func (r *Reconciler) podCreated(ctx context.Context, q shared.Queue, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		// First seen after a restart: nobody waits for its creation.
		r.podDeleted(ctx, q, pod)
		return
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		if rs := r.owner(pod.Namespace, owner); rs != nil {
			r.expectations.CreationObserved(klog.FromContext(ctx), shared.Request(rs).String())
			q.Add(shared.Request(rs))
		}
		return
	}
	r.orphan(q, pod)
}

func (r *Reconciler) podUpdated(ctx context.Context, q shared.Queue, old, now *corev1.Pod) {
	relabelled := !maps.Equal(old.Labels, now.Labels)
	if now.DeletionTimestamp != nil {
		// A Pod that terminates is replaced at once.
		r.podDeleted(ctx, q, now)
		if relabelled {
			r.podDeleted(ctx, q, old)
		}
		return
	}
	owner, before := metav1.GetControllerOf(now), metav1.GetControllerOf(old)
	moved := !equality.Semantic.DeepEqual(owner, before)
	if moved && before != nil {
		if rs := r.owner(old.Namespace, before); rs != nil {
			q.Add(shared.Request(rs))
		}
	}
	switch {
	case owner != nil:
		rs := r.owner(now.Namespace, owner)
		if rs == nil {
			return
		}
		q.Add(shared.Request(rs))
		if !podutil.IsPodReady(old) && podutil.IsPodReady(now) && rs.Spec.MinReadySeconds > 0 {
			q.AddAfter(shared.Request(rs), time.Duration(rs.Spec.MinReadySeconds)*time.Second)
		}
	case relabelled || moved:
		r.orphan(q, now)
	}
}

func (r *Reconciler) podDeleted(ctx context.Context, q shared.Queue, pod *corev1.Pod) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return
	}
	if rs := r.owner(pod.Namespace, owner); rs != nil {
		r.expectations.DeletionObserved(klog.FromContext(ctx), shared.Request(rs).String(), controller.PodKey(pod))
		q.Add(shared.Request(rs))
	}
}

// orphan asks for the ReplicaSets that may adopt the Pod.
func (r *Reconciler) orphan(q shared.Queue, pod *corev1.Pod) {
	sets, err := r.sets.GetPodReplicaSets(pod)
	if err != nil {
		return // none select it
	}
	for _, rs := range sets {
		q.Add(shared.Request(rs))
	}
}

// owner is the ReplicaSet that a Pod names as its controller, or nil.
func (r *Reconciler) owner(namespace string, ref *metav1.OwnerReference) *appsv1.ReplicaSet {
	if ref.Kind != r.kind.Kind {
		return nil
	}
	rs, err := r.sets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return nil
	}
	return rs
}
