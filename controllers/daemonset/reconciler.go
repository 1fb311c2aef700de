package daemonset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/daemon/util"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Upstream's defaults: how long a failed Pod of a node stays before it is
// replaced, the second time and at most.
const (
	firstBackoff = time.Second
	lastBackoff  = 15 * time.Minute
)

var (
	kind                = appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	daemonSets          = appsv1.Resource("daemonsets")
	controllerRevisions = appsv1.Resource("controllerrevisions")
	podResource         = corev1.Resource("pods")
)

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler keeps a Pod of a DaemonSet on every node that shall have one.
type Reconciler struct {
	cfg         Config
	sets        appslisters.DaemonSetLister
	revisions   appslisters.ControllerRevisionLister
	nodes       corelisters.NodeLister
	podsByOwner cache.Indexer
	control     controller.PodControlInterface
	backoff     *flowcontrol.Backoff
	// written knows which own writes the cache has seen.
	written consistency.ConsistencyStore

	// mu guards doomed: the Pods of each DaemonSet that were deleted, and the
	// cache does not say so yet.
	mu     sync.Mutex
	doomed map[types.NamespacedName]map[types.UID]bool
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	apps, core := cfg.Informers.Apps().V1(), cfg.Informers.Core().V1()
	if err := controller.AddPodControllerIndexer(core.Pods().Informer()); err != nil {
		return nil, fmt.Errorf("index Pods by owner: %w", err)
	}
	r := &Reconciler{
		cfg:         cfg,
		sets:        apps.DaemonSets().Lister(),
		revisions:   apps.ControllerRevisions().Lister(),
		nodes:       core.Nodes().Lister(),
		podsByOwner: core.Pods().Informer().GetIndexer(),
		backoff:     flowcontrol.NewBackOff(firstBackoff, lastBackoff),
		written: consistency.NewConsistencyStore(map[schema.GroupResource]consistency.LastSyncRVGetter{
			podResource:         core.Pods().Informer().GetStore(),
			daemonSets:          apps.DaemonSets().Informer().GetStore(),
			controllerRevisions: apps.ControllerRevisions().Informer().GetStore(),
		}),
		doomed: map[types.NamespacedName]map[types.UID]bool{},
	}
	r.backoff.Clock = cfg.Clock
	r.control = cfg.PodControl(r.written)
	return r, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.DaemonSetController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&appsv1.DaemonSet{}, shared.OnItself(r.forget)).
		Watches(&appsv1.ControllerRevision{}, r.onRevision()).
		Watches(&corev1.Pod{}, r.onPod()).
		Watches(&corev1.Node{}, r.onNode()).
		Complete(r)
}

// Reconcile moves a DaemonSet one step.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if ready, result, err := shared.CaughtUp(r.written, req.NamespacedName); !ready {
		return result, err
	}
	set, err := r.sets.DaemonSets(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.forget(ctx, req.NamespacedName, "")
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if equality.Semantic.DeepEqual(set.Spec.Selector, &metav1.LabelSelector{}) {
		r.cfg.Recorder.Event(set, corev1.EventTypeWarning, daemon.SelectingAllReason, "This daemon set is selecting all pods. A non-empty selector is required.")
		return reconcile.Result{}, nil
	}
	if set.DeletionTimestamp != nil {
		// What it owns goes in any order; the garbage collector sees to that.
		return reconcile.Result{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(fmt.Errorf("selector of %s: %w", req, err))
	}
	again, err := r.sync(ctx, set, selector)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		// Somebody else wrote in between: that event comes here.
		return reconcile.Result{RequeueAfter: shared.BehindRecheck}, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: again}, err
}

// sync is one pass: what there is, what is missing, and the status. It says
// when to look again, or zero.
func (r *Reconciler) sync(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector) (again time.Duration, _ error) {
	history, err := r.history(ctx, set, selector)
	if err != nil || history.current == nil {
		return 0, err
	}
	s, claimed, err := r.observe(ctx, set, selector, history.current.Labels[hashLabel])
	if err != nil {
		return 0, err
	}
	p := manage(s)
	if p.empty() && set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		step, err := roll(s)
		if err != nil {
			return 0, err
		}
		p.create, p.remove = step.create, step.remove
	}
	failure := r.apply(ctx, s, p)
	if failure == nil {
		failure = r.deleteRevisions(ctx, surplusRevisions(history.old, int(*set.Spec.RevisionHistoryLimit), claimed))
	}
	if err := r.writeStatus(ctx, set, planStatus(s)); err != nil {
		return 0, errors.Join(failure, err)
	}
	if set.Spec.MinReadySeconds > 0 {
		if next := controller.FindMinNextPodAvailabilityCheck(claimed, set.Spec.MinReadySeconds, s.now, r.cfg.Clock); next != nil {
			p.later(max(*next, time.Millisecond))
		}
	}
	return p.again, failure
}

// observe reads the nodes and the DaemonSet's Pods, adopting and releasing what
// its selector says. claimed are all Pods, with those that are over.
func (r *Reconciler) observe(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, hash string) (_ *state, claimed []*corev1.Pod, _ error) {
	all, err := controller.FilterPodsByOwner(r.podsByOwner, &set.ObjectMeta, kind.Kind, true)
	if err != nil {
		return nil, nil, err
	}
	claimed, err = controller.NewPodControllerRefManager(r.control, set, selector, kind, r.mayAdopt(set)).ClaimPods(ctx, all)
	if err != nil {
		return nil, nil, err
	}
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	s := &state{set: set, hash: hash, pods: map[string][]*corev1.Pod{}, now: r.cfg.Clock.Now()}
	s.failed = func(node string) (bool, time.Duration) { return r.failed(set, node, s.now) }
	for _, n := range nodes {
		run, stays := daemon.NodeShouldRunDaemonPod(klog.FromContext(ctx), n, set)
		s.nodes = append(s.nodes, node{n.Name, run, stays})
	}
	for _, pod := range r.markDoomed(client.ObjectKeyFromObject(set), claimed, s.now) {
		if podutil.IsPodTerminal(pod) && pod.DeletionTimestamp != nil {
			continue // somebody's finalizer holds it
		}
		if node, err := util.GetTargetNodeName(pod); err == nil {
			s.pods[node] = append(s.pods[node], pod)
		}
	}
	return s, claimed, nil
}

// markDoomed says of Pods that were deleted that they are, before the cache does.
func (r *Reconciler) markDoomed(set types.NamespacedName, pods []*corev1.Pod, now time.Time) []*corev1.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, still := r.doomed[set], map[types.UID]bool{}
	var marked []*corev1.Pod
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && before[pod.UID] {
			still[pod.UID] = true
			seen := *pod
			seen.DeletionTimestamp = &metav1.Time{Time: now}
			pod = &seen
		}
		marked = append(marked, pod)
	}
	if r.doomed[set] = still; len(still) == 0 {
		delete(r.doomed, set)
	}
	return marked
}

func (r *Reconciler) doom(set types.NamespacedName, pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doomed[set] == nil {
		r.doomed[set] = map[types.UID]bool{}
	}
	r.doomed[set][pod] = true
}

// failed tells whether a failed Pod of the node may be replaced now, each time
// after twice as long.
func (r *Reconciler) failed(set *appsv1.DaemonSet, node string, now time.Time) (bool, time.Duration) {
	key := fmt.Sprintf("%s/%d/%s", set.UID, set.Status.ObservedGeneration, node)
	if r.backoff.IsInBackOffSinceUpdate(key, now) {
		return false, r.backoff.Get(key)
	}
	r.backoff.GC()
	r.backoff.Next(key, now)
	return true, 0
}

// mayAdopt asks the API server whether the DaemonSet is still there.
func (r *Reconciler) mayAdopt(set *appsv1.DaemonSet) func(context.Context) error {
	return controller.RecheckDeletionTimestamp(func(ctx context.Context) (metav1.Object, error) {
		fresh, err := r.cfg.Client.AppsV1().DaemonSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if err == nil && fresh.UID != set.UID {
			err = fmt.Errorf("DaemonSet %s/%s is another one: uid %s, was %s", set.Namespace, set.Name, fresh.UID, set.UID)
		}
		return fresh, err
	})
}

// apply creates and deletes Pods, at most upstream's burst of each; the events
// of these bring the rest.
func (r *Reconciler) apply(ctx context.Context, s *state, p plan) error {
	for _, n := range p.notes {
		r.cfg.Recorder.Event(s.set, n.kind, n.reason, n.message)
	}
	remove := p.remove[:min(len(p.remove), daemon.BurstReplicas)]
	failures := shared.InParallel(len(remove), func(i int) error {
		err := r.control.DeletePod(ctx, s.set.Namespace, remove[i].Name, s.set)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		r.doom(client.ObjectKeyFromObject(s.set), remove[i].UID)
		return nil
	})
	return errors.Join(r.create(ctx, s, p.create[:min(len(p.create), daemon.BurstReplicas)]), errors.Join(failures...))
}

// create makes a Pod for each node.
func (r *Reconciler) create(ctx context.Context, s *state, nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	generation, err := util.GetTemplateGeneration(s.set)
	if err != nil {
		generation = nil // not a number; the hash decides
	}
	template := util.CreatePodTemplate(s.set.Spec.Template, generation, s.hash)
	_, err = shared.Doubling(len(nodes), func(i int) error {
		pod := template.DeepCopy()
		pod.Spec.Affinity = util.ReplaceDaemonSetPodNodeNameNodeAffinity(pod.Spec.Affinity, nodes[i])
		err := r.control.CreatePods(ctx, s.set.Namespace, pod, s.set, metav1.NewControllerRef(s.set, kind))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created any more
		}
		return err
	})
	return err
}

func (r *Reconciler) writeStatus(ctx context.Context, set *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	after := set.DeepCopy()
	after.Status = status
	after, err := r.cfg.Client.AppsV1().DaemonSets(set.Namespace).UpdateStatus(ctx, after, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	r.wrote(set, daemonSets, after)
	return nil
}

func (r *Reconciler) wrote(set *appsv1.DaemonSet, resource schema.GroupResource, o metav1.Object) {
	r.written.WroteAt(client.ObjectKeyFromObject(set), set.UID, resource, o.GetResourceVersion())
}

// forget drops what is known of a DaemonSet; any one of the name without uid.
func (r *Reconciler) forget(_ context.Context, set types.NamespacedName, uid types.UID) {
	r.written.Clear(set, uid)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.doomed, set)
}
