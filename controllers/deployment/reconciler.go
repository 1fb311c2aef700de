package deployment

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientfeatures "k8s.io/client-go/features"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/deployment/util"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

var (
	kind        = appsv1.SchemeGroupVersion.WithKind("Deployment")
	deployments = appsv1.Resource("deployments")
	replicaSets = appsv1.Resource("replicasets")
)

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler rolls Deployments out.
type Reconciler struct {
	cfg         Config
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	podsByOwner cache.Indexer
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	apps, pods := cfg.Informers.Apps().V1(), cfg.Informers.Core().V1().Pods().Informer()
	if err := controller.AddPodControllerIndexer(pods); err != nil {
		return nil, fmt.Errorf("index Pods by owner: %w", err)
	}
	r := &Reconciler{
		cfg:         cfg,
		deployments: apps.Deployments().Lister(),
		sets:        apps.ReplicaSets().Lister(),
		podsByOwner: pods.GetIndexer(),
		written:     consistency.NewNoopConsistencyStore(),
	}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.AtomicFIFO) { // stores know their version
		r.written = consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			deployments: apps.Deployments().Informer().GetStore(),
			replicaSets: apps.ReplicaSets().Informer().GetStore(),
		})
	}
	return r, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.DeploymentController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		For(&appsv1.Deployment{}).
		Watches(&appsv1.ReplicaSet{}, shared.OnOwned(r.askOwner, r.askAdopters)).
		Watches(&corev1.Pod{}, r.onPod()).
		Complete(r)
}

// Reconcile moves a Deployment one step.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	d, err := r.deployments.Deployments(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.written.Clear(req.NamespacedName, "")
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		r.cfg.Recorder.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		after := d.DeepCopy()
		after.Status.ObservedGeneration = d.Generation
		return reconcile.Result{}, r.writeStatus(ctx, d, after)
	}
	sets, err := r.claim(ctx, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	p := decide(ctx, state{
		deployment: d, sets: sets, now: r.cfg.Clock.Now(),
		oldPods:          func(newSet *appsv1.ReplicaSet) bool { return r.oldPods(sets, newSet) },
		countTerminating: utilfeature.DefaultFeatureGate.Enabled(features.DeploymentReplicaSetTerminatingReplicas),
	})
	err = r.apply(ctx, d, p)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		// Somebody else wrote in between: that event comes here.
		return reconcile.Result{RequeueAfter: shared.BehindRecheck}, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: p.again}, err
}

// claim returns the Deployment's sets, adopting and releasing what its
// selector says.
func (r *Reconciler) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("selector of Deployment %s/%s: %w", d.Namespace, d.Name, err))
	}
	all, err := r.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	mayAdopt := controller.RecheckDeletionTimestamp(func(ctx context.Context) (metav1.Object, error) {
		fresh, err := r.cfg.Client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		if err == nil && fresh.UID != d.UID {
			err = fmt.Errorf("Deployment %s/%s is another one: uid %s, was %s", d.Namespace, d.Name, fresh.UID, d.UID)
		}
		return fresh, err
	})
	control := controller.RealRSControl{KubeClient: r.cfg.Client, Recorder: r.cfg.Recorder}
	return controller.NewReplicaSetControllerRefManager(control, d, selector, kind, mayAdopt).ClaimReplicaSets(ctx, all)
}

// oldPods tells whether a Pod of a set other than newSet may still run.
func (r *Reconciler) oldPods(sets []*appsv1.ReplicaSet, newSet *appsv1.ReplicaSet) bool {
	for _, rs := range sets {
		if newSet != nil && rs.UID == newSet.UID {
			continue
		}
		pods, err := controller.FilterPodsByOwner(r.podsByOwner, &rs.ObjectMeta, "ReplicaSet", false)
		if err != nil {
			return true
		}
		for _, pod := range pods {
			if pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
				return true
			}
		}
	}
	return false
}

// apply writes a plan: sets first, the status last.
func (r *Reconciler) apply(ctx context.Context, d *appsv1.Deployment, p plan) error {
	if p.rollback != nil {
		updated, err := r.cfg.Client.AppsV1().Deployments(d.Namespace).Update(ctx, p.rollback, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		r.wrote(d, deployments, updated)
		r.say(d, p.notes)
		return nil
	}
	if p.create != nil {
		if done, err := r.create(ctx, d, p.create); err != nil || done {
			return err
		}
	}
	sets := r.cfg.Client.AppsV1().ReplicaSets(d.Namespace)
	for _, c := range p.update {
		updated, err := sets.Update(ctx, c.set, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		r.wrote(d, replicaSets, updated)
		if c.say != nil {
			r.say(d, []note{*c.say})
		}
	}
	for _, rs := range p.remove {
		err := sets.Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &rs.UID}})
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	r.say(d, p.notes)
	return r.writeStatus(ctx, d, p.deployment)
}

// create makes the new set. It tells whether the pass is over: the name is
// taken, or the failure is noted in the status.
func (r *Reconciler) create(ctx context.Context, d *appsv1.Deployment, c *change) (done bool, err error) {
	sets := r.cfg.Client.AppsV1().ReplicaSets(d.Namespace)
	created, err := sets.Create(ctx, c.set, metav1.CreateOptions{})
	switch {
	case err == nil:
		r.wrote(d, replicaSets, created)
		if c.say != nil {
			r.say(d, []note{*c.say})
		}
		return false, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return true, err
	case apierrors.IsAlreadyExists(err):
		return true, r.collide(ctx, d, c.set)
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", c.set.Name, err)
	r.say(d, []note{{corev1.EventTypeWarning, util.FailedRSCreateReason, message}})
	if !util.HasProgressDeadline(d) {
		return true, err
	}
	after := d.DeepCopy()
	now := metav1.Time{Time: r.cfg.Clock.Now()}
	util.SetDeploymentCondition(&after.Status, appsv1.DeploymentCondition{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: util.FailedRSCreateReason, Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	return true, errors.Join(err, r.writeStatus(ctx, d, after))
}

// collide finds out who has the new set's name. If it is not this Deployment's
// set with this template, two templates have one hash: counting that in the
// status makes another hash.
func (r *Reconciler) collide(ctx context.Context, d *appsv1.Deployment, wanted *appsv1.ReplicaSet) error {
	taken, err := r.cfg.Client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if metav1.IsControlledBy(taken, d) && util.EqualIgnoreHash(&d.Spec.Template, &taken.Spec.Template) {
		// Ours: the cache is behind.
		r.wrote(d, replicaSets, taken)
		return nil
	}
	after := d.DeepCopy()
	after.Status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
	return r.writeStatus(ctx, d, after)
}

func (r *Reconciler) writeStatus(ctx context.Context, before, after *appsv1.Deployment) error {
	if same(before, after) {
		return nil
	}
	updated, err := r.cfg.Client.AppsV1().Deployments(before.Namespace).UpdateStatus(ctx, after, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	r.wrote(before, deployments, updated)
	return nil
}

func (r *Reconciler) wrote(d *appsv1.Deployment, resource schema.GroupResource, o metav1.Object) {
	r.written.WroteAt(client.ObjectKeyFromObject(d), d.UID, resource, o.GetResourceVersion())
}

func (r *Reconciler) say(d *appsv1.Deployment, notes []note) {
	for _, n := range notes {
		r.cfg.Recorder.Event(d, n.kind, n.reason, n.message)
	}
}
