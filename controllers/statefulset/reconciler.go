package statefulset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/history"
	upstream "k8s.io/kubernetes/pkg/controller/statefulset"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/kubernetes/pkg/features"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

var (
	kind         = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	statefulSets = appsv1.Resource("statefulsets")
	pods         = corev1.Resource("pods")
	volumeClaims = corev1.Resource("persistentvolumeclaims")
)

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler calls upstream's algorithm for StatefulSets.
type Reconciler struct {
	cfg         Config
	sets        appslisters.StatefulSetLister
	podsByOwner cache.Indexer
	algorithm   upstream.StatefulSetControlInterface
	pods        controller.PodControlInterface
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	apps, core := cfg.Informers.Apps().V1(), cfg.Informers.Core().V1()
	if err := controller.AddPodControllerIndexer(core.Pods().Informer()); err != nil {
		return nil, fmt.Errorf("index Pods by owner: %w", err)
	}
	if err := history.AddControllerRevisionControllerIndexer(apps.ControllerRevisions().Informer()); err != nil {
		return nil, fmt.Errorf("index ControllerRevisions by owner: %w", err)
	}
	r := &Reconciler{
		cfg:         cfg,
		sets:        apps.StatefulSets().Lister(),
		podsByOwner: core.Pods().Informer().GetIndexer(),
		written:     consistency.NewNoopConsistencyStore(),
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.StaleControllerConsistencyStatefulSet) {
		r.written = consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			pods:         core.Pods().Informer().GetStore(),
			volumeClaims: core.PersistentVolumeClaims().Informer().GetStore(),
			statefulSets: apps.StatefulSets().Informer().GetStore(),
		})
	}
	r.algorithm = upstream.NewDefaultStatefulSetControl(
		upstream.NewStatefulPodControl(cfg.Client, core.Pods().Lister(), core.PersistentVolumeClaims().Lister(), cfg.Recorder, r.written),
		upstream.NewRealStatefulSetStatusUpdater(cfg.Client, r.sets, r.written),
		history.NewHistory(cfg.Client, apps.ControllerRevisions().Lister(), apps.ControllerRevisions().Informer().GetIndexer()),
	)
	r.pods = cfg.PodControl(r.written)
	return r, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.StatefulSetController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&appsv1.StatefulSet{}, r.onSet()).
		Watches(&corev1.Pod{}, shared.OnOwned(r.askOwner, r.askAdopters)).
		Watches(&corev1.PersistentVolumeClaim{}, r.onClaim()).
		Complete(r)
}

// Reconcile claims Pods and revisions, and calls the algorithm with them.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	set, err := r.sets.StatefulSets(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.written.Clear(req.NamespacedName, "")
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(fmt.Errorf("selector of %s: %w", req, err))
	}
	mayAdopt := controller.RecheckDeletionTimestamp(func(ctx context.Context) (metav1.Object, error) {
		fresh, err := r.cfg.Client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if err == nil && fresh.UID != set.UID {
			err = fmt.Errorf("StatefulSet %s is another one: uid %s, was %s", req, fresh.UID, set.UID)
		}
		return fresh, err
	})
	if err := r.adoptRevisions(ctx, set, mayAdopt); err != nil {
		return reconcile.Result{}, err
	}
	all, err := controller.FilterPodsByOwner(r.podsByOwner, &set.ObjectMeta, kind.Kind, true)
	if err != nil {
		return reconcile.Result{}, err
	}
	refs := controller.NewPodControllerRefManager(r.pods, set, selector, kind, mayAdopt)
	claimed, err := refs.ClaimPods(ctx, all, func(pod *corev1.Pod) bool { return member(set, pod) })
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.cfg.Clock.Now()
	status, err := r.algorithm.UpdateStatefulSet(ctx, set, claimed, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: nextAvailable(set, status, claimed, now, r.cfg.Clock)}, nil
}

// adoptRevisions takes revisions of the set's that have no owner.
func (r *Reconciler) adoptRevisions(ctx context.Context, set *appsv1.StatefulSet, mayAdopt func(context.Context) error) error {
	revisions, err := r.algorithm.ListRevisions(set)
	if err != nil {
		return err
	}
	var orphans []*appsv1.ControllerRevision
	for _, revision := range revisions {
		if metav1.GetControllerOf(revision) == nil {
			orphans = append(orphans, revision)
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	if err := mayAdopt(ctx); err != nil {
		return fmt.Errorf("adopt ControllerRevisions of StatefulSet %s/%s: %w", set.Namespace, set.Name, err)
	}
	return r.algorithm.AdoptOrphanRevisions(set, orphans)
}
