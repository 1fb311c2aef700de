package replicaset

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/kubernetes/pkg/features"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

var pods = corev1.Resource("pods")

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler keeps the Pods of a ReplicaSet.
type Reconciler struct {
	resource
	cfg          Config
	pods         corelisters.PodLister
	podsByOwner  cache.Indexer
	control      controller.PodControlInterface
	expectations *controller.UIDTrackingControllerExpectations
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore
}

// New makes a reconciler of ReplicaSets; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	return newReconciler(cfg, replicaSets(cfg.Client, cfg.Informers))
}

// NewReplicationController makes a reconciler of ReplicationControllers.
func NewReplicationController(cfg Config) (*Reconciler, error) {
	return newReconciler(cfg, replicationControllers(cfg.Client, cfg.Informers))
}

func newReconciler(cfg Config, of resource) (*Reconciler, error) {
	podInformer := cfg.Informers.Core().V1().Pods()
	if err := controller.AddPodControllerIndexer(podInformer.Informer()); err != nil {
		return nil, fmt.Errorf("index Pods by owner: %w", err)
	}
	r := &Reconciler{
		resource:     of,
		cfg:          cfg,
		pods:         podInformer.Lister(),
		podsByOwner:  podInformer.Informer().GetIndexer(),
		expectations: controller.NewUIDTrackingControllerExpectations(controller.NewControllerExpectations()),
		written:      consistency.NewNoopConsistencyStore(),
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.StaleControllerConsistencyReplicaSet) {
		r.written = consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			of.group: of.informer.GetStore(),
			pods:     podInformer.Informer().GetStore(),
		})
	}
	r.control = cfg.PodControl(r.written)
	return r, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.name).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(r.watched, shared.OnItself(r.forget)).
		Watches(&corev1.Pod{}, r.onPod()).
		Complete(r)
}

// Reconcile creates and deletes Pods of a ReplicaSet, and writes its status.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	key := req.String()
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	rs, err := r.sets.ReplicaSets(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.forget(ctx, req.NamespacedName, "")
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	// Before the Pods are read, so that what is expected is in them.
	complete := r.expectations.SatisfiedExpectations(klog.FromContext(ctx), key)
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(fmt.Errorf("selector of %s: %w", key, err))
	}
	seen, err := r.observe(ctx, rs, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	if complete && rs.DeletionTimestamp == nil {
		seen.failure = r.apply(ctx, key, rs, seen.active)
	}
	now := r.cfg.Clock.Now()
	status := planStatus(rs, seen, now)
	if !same(rs, status) {
		if err := r.writeStatus(ctx, rs, status); err != nil {
			return reconcile.Result{}, err
		}
	}
	if seen.failure != nil {
		return reconcile.Result{}, seen.failure
	}
	return reconcile.Result{RequeueAfter: r.nextAvailable(rs, status, seen.active, now)}, nil
}

// observe reads the Pods that are the ReplicaSet's, adopting and releasing
// what its selector says.
func (r *Reconciler) observe(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) (observed, error) {
	all, err := controller.FilterPodsByOwner(r.podsByOwner, &rs.ObjectMeta, r.kind.Kind, true)
	if err != nil {
		return observed{}, err
	}
	mayAdopt := controller.RecheckDeletionTimestamp(func(ctx context.Context) (metav1.Object, error) {
		fresh, err := r.get(ctx, rs.Namespace, rs.Name)
		if err == nil && fresh.UID != rs.UID {
			err = fmt.Errorf("%s %s/%s is another one: uid %s, was %s", r.kind.Kind, rs.Namespace, rs.Name, fresh.UID, rs.UID)
		}
		return fresh, err
	})
	refs := controller.NewPodControllerRefManager(r.control, rs, selector, r.kind, mayAdopt)
	active, err := refs.ClaimPods(ctx, controller.FilterActivePods(klog.FromContext(ctx), all))
	if err != nil {
		return observed{}, err
	}
	seen := observed{active: active}
	if r.terminating {
		seen.terminating = append([]*corev1.Pod{}, controller.FilterClaimedPods(rs, selector, controller.FilterTerminatingPods(all))...)
	}
	return seen, nil
}

// apply creates or deletes the difference.
func (r *Reconciler) apply(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	var related []*corev1.Pod
	if len(active) > int(*rs.Spec.Replicas) {
		related = r.related(rs)
	}
	c := planReplicas(int(*rs.Spec.Replicas), active, related, r.cfg.Clock.Now())
	switch {
	case c.create > 0:
		return r.create(ctx, key, rs, c.create)
	case len(c.remove) > 0:
		return r.remove(ctx, key, rs, c.remove)
	}
	return nil
}

// create makes n Pods: first one, then twice as many as before while all goes
// well, so that a quota or a webhook that refuses them hears it once.
func (r *Reconciler) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	log := klog.FromContext(ctx)
	object, err := r.object(rs)
	if err != nil {
		return err
	}
	if err := r.expectations.ExpectCreations(log, key, n); err != nil {
		return err
	}
	made, err := shared.Doubling(n, func(int) error {
		err := r.control.CreatePods(ctx, rs.Namespace, &rs.Spec.Template, object, metav1.NewControllerRef(rs, r.kind))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created any more
		}
		return err
	})
	for range n - made {
		r.expectations.CreationObserved(log, key) // no event will say so
	}
	return err
}

// remove deletes the Pods.
func (r *Reconciler) remove(ctx context.Context, key string, rs *appsv1.ReplicaSet, doomed []*corev1.Pod) error {
	log := klog.FromContext(ctx)
	object, err := r.object(rs)
	if err != nil {
		return err
	}
	keys := make([]string, len(doomed))
	for i, pod := range doomed {
		keys[i] = controller.PodKey(pod)
	}
	if err := r.expectations.ExpectDeletions(log, key, keys); err != nil {
		return err
	}
	failures := shared.InParallel(len(doomed), func(i int) error {
		err := r.control.DeletePod(ctx, rs.Namespace, doomed[i].Name, object)
		if err != nil {
			r.expectations.DeletionObserved(log, key, keys[i]) // no event will say so
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if len(failures) > 0 {
		return failures[0]
	}
	return nil
}

// related are the Pods of all ReplicaSets with the same owner.
func (r *Reconciler) related(rs *appsv1.ReplicaSet) []*corev1.Pod {
	owner := metav1.GetControllerOf(rs)
	if owner == nil {
		return nil
	}
	siblings, err := r.sets.ReplicaSets(rs.Namespace).List(labels.Everything())
	if err != nil {
		return nil // the order of deletion does without
	}
	seen := map[types.UID]bool{}
	var related []*corev1.Pod
	for _, sibling := range siblings {
		selector, err := metav1.LabelSelectorAsSelector(sibling.Spec.Selector)
		if ref := metav1.GetControllerOf(sibling); err != nil || ref == nil || ref.UID != owner.UID {
			continue
		}
		found, err := r.pods.Pods(rs.Namespace).List(selector)
		if err != nil {
			continue
		}
		for _, pod := range found {
			if !seen[pod.UID] {
				seen[pod.UID] = true
				related = append(related, pod)
			}
		}
	}
	return related
}

// writeStatus writes the status. Somebody else's write in between is no error:
// its event comes here.
func (r *Reconciler) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	updated := rs.DeepCopy()
	updated.Status = status
	updated, err := r.updateStatus(ctx, updated)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of %s %s/%s: %w", r.kind.Kind, rs.Namespace, rs.Name, err)
	}
	r.written.WroteAt(types.NamespacedName{Namespace: rs.Namespace, Name: rs.Name}, rs.UID, r.group, updated.ResourceVersion)
	return nil
}

// nextAvailable is when the next ready Pod has been ready for long enough;
// zero when none is about to be.
func (r *Reconciler) nextAvailable(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus, active []*corev1.Pod, now time.Time) time.Duration {
	if rs.Spec.MinReadySeconds == 0 || status.ReadyReplicas == status.AvailableReplicas {
		return 0
	}
	if next := controller.FindMinNextPodAvailabilityCheck(active, rs.Spec.MinReadySeconds, now, r.cfg.Clock); next != nil {
		return max(*next, time.Millisecond)
	}
	return time.Duration(rs.Spec.MinReadySeconds) * time.Second
}

// forget drops what is known of a ReplicaSet; any one of the name without uid.
func (r *Reconciler) forget(ctx context.Context, rs types.NamespacedName, uid types.UID) {
	r.written.Clear(rs, uid)
	r.expectations.DeleteExpectations(klog.FromContext(ctx), rs.String())
}
