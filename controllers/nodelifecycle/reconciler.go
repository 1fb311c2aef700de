package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	nodeutil "k8s.io/kubernetes/pkg/controller/util/node"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Upstream's defaults: how long a kubelet may be silent before it has posted
// its first status, and after.
const (
	StartupGrace = 60 * time.Second
	MonitorGrace = 50 * time.Second
)

// evictionDelay is how long a node may be not ready before it is tainted
// NoExecute: upstream looks every five seconds. Nodes that just start become
// ready in between.
const evictionDelay = 5 * time.Second

// Config is what the reconciler works with.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Recorder writes events as node-controller.
	Recorder record.EventRecorder
	Clock    clock.PassiveClock
	// StartupGrace and MonitorGrace default to the constants of these names.
	StartupGrace, MonitorGrace time.Duration
}

// Reconciler watches over nodes.
type Reconciler struct {
	cfg        Config
	nodes      corelisters.NodeLister
	leases     coordinationlisters.LeaseNamespaceLister
	podsByNode cache.Indexer
	zones      *zones
	// lookAgain asks for nodes from within.
	lookAgain chan event.TypedGenericEvent[string]

	// mu guards healths.
	mu      sync.Mutex
	healths map[string]health
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	if cfg.StartupGrace == 0 {
		cfg.StartupGrace = StartupGrace
	}
	if cfg.MonitorGrace == 0 {
		cfg.MonitorGrace = MonitorGrace
	}
	core := cfg.Informers.Core().V1()
	if err := controller.AddPodNodeNameIndexer(core.Pods().Informer()); err != nil {
		return nil, fmt.Errorf("index Pods by node: %w", err)
	}
	return &Reconciler{
		cfg:        cfg,
		nodes:      core.Nodes().Lister(),
		leases:     cfg.Informers.Coordination().V1().Leases().Lister().Leases(corev1.NamespaceNodeLease),
		podsByNode: core.Pods().Informer().GetIndexer(),
		zones:      newZones(),
		lookAgain:  make(chan event.TypedGenericEvent[string], 1024),
		healths:    map[string]health{},
	}, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.NodeLifecycleController).
		For(&corev1.Node{}).
		Watches(&coordinationv1.Lease{}, r.onLease()).
		Watches(&corev1.Pod{}, r.onPod()).
		WatchesRawSource(source.Channel(r.lookAgain, handler.TypedFuncs[string, reconcile.Request]{
			GenericFunc: func(_ context.Context, e event.TypedGenericEvent[string], q shared.Queue) { q.Add(request(e.Object)) },
		})).
		Complete(r)
}

// Reconcile looks at a node: is it alive, and do its taints say so.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	node, err := r.nodes.Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.gone(req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.cfg.Clock.Now()
	h := r.look(node, now)
	left := h.silentAt(r.cfg.StartupGrace, r.cfg.MonitorGrace).Sub(now)
	if left <= 0 {
		if wrote, err := r.giveUp(ctx, node, now); err != nil || wrote {
			return quiet(reconcile.Result{RequeueAfter: shared.BehindRecheck}, err)
		}
		left = 0 // until the kubelet speaks
	}
	r.count()
	if err := r.unreadyPods(ctx, node); err != nil {
		return reconcile.Result{}, err
	}
	again, err := r.mark(ctx, node, h, now)
	return quiet(reconcile.Result{RequeueAfter: soonest(left, again)}, err)
}

// quiet makes a conflict (of a patch: a test that fails) no error: the other's
// write comes here as an event.
func quiet(result reconcile.Result, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
		return reconcile.Result{RequeueAfter: shared.BehindRecheck}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return result, nil
}

// soonest is the smaller of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// look remembers what the node and its lease say.
func (r *Reconciler) look(node *corev1.Node, now time.Time) health {
	lease, err := r.leases.Get(node.Name)
	if err != nil {
		lease = nil // none yet
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var before *health
	if h, ok := r.healths[node.Name]; ok {
		before = &h
	} else {
		r.cfg.Recorder.Eventf(reference(node.Name, node.UID), corev1.EventTypeNormal, "RegisteredNode",
			"Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	}
	h := look(before, node, lease, now)
	if before != nil && h.overslept(node, r.cfg.StartupGrace, r.cfg.MonitorGrace, now) {
		h.seen = now
	}
	h.uid = node.UID
	r.healths[node.Name] = h
	return h
}

func reference(name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}
}

// gone forgets a node.
func (r *Reconciler) gone(name string) {
	r.mu.Lock()
	h, known := r.healths[name]
	delete(r.healths, name)
	r.mu.Unlock()
	if known {
		r.cfg.Recorder.Eventf(reference(name, h.uid), corev1.EventTypeNormal, "RemovingNode",
			"Node %s event: Removing Node %s from Controller", name, name)
	}
	r.count()
}

// count has all nodes looked at again after a turn of the whole. When one is
// ready again after none was, all get their full time anew.
func (r *Reconciler) count() {
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return // a cache cannot fail to list
	}
	turn := r.zones.count(nodes)
	if turn.regained {
		now := r.cfg.Clock.Now()
		r.mu.Lock()
		for name, h := range r.healths {
			h.seen = now
			r.healths[name] = h
		}
		r.mu.Unlock()
	}
	if !turn.changed {
		return
	}
	for _, n := range nodes {
		select {
		case r.lookAgain <- event.TypedGenericEvent[string]{Object: n.Name}:
		default: // a thousand wait already; each node has its own deadline too
		}
	}
}

// giveUp writes the conditions of a silent node. It tells whether there was
// anything to write.
func (r *Reconciler) giveUp(ctx context.Context, node *corev1.Node, now time.Time) (bool, error) {
	after := giveUp(node, now)
	if after == nil {
		return false, nil
	}
	// Our cache may be what is silent.
	lease, err := r.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return false, fmt.Errorf("lease of node %s: %w", node.Name, err)
	case r.renewed(lease):
		return true, nil
	}
	ready := condition(node, corev1.NodeReady)
	if _, err := r.cfg.Client.CoreV1().Nodes().UpdateStatus(ctx, after, metav1.UpdateOptions{}); err != nil {
		return false, err
	}
	if ready != nil && ready.Status == corev1.ConditionTrue {
		nodeutil.RecordNodeStatusChange(klog.FromContext(ctx), r.cfg.Recorder, node, "NodeNotReady")
	}
	return true, nil
}

// renewed notes a renewal, and tells whether it was one.
func (r *Reconciler) renewed(lease *coordinationv1.Lease) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.healths[lease.Name]
	if !ok || lease.Spec.RenewTime == nil || !h.renewed.Before(lease.Spec.RenewTime) {
		return false
	}
	h.renewed, h.seen = *lease.Spec.RenewTime, r.cfg.Clock.Now()
	r.healths[lease.Name] = h
	return true
}

// unreadyPods says of the Pods of a silent node that they are not ready.
func (r *Reconciler) unreadyPods(ctx context.Context, node *corev1.Node) error {
	if ready := condition(node, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionUnknown {
		return nil
	}
	pods, err := shared.PodsOn(r.podsByNode, node.Name)
	if err != nil {
		return err
	}
	return nodeutil.MarkPodsNotReady(ctx, r.cfg.Client, r.cfg.Recorder, pods, node.Name)
}

// mark writes taints and labels that differ, in one patch. It says when to
// look again, or zero.
func (r *Reconciler) mark(ctx context.Context, node *corev1.Node, h health, now time.Time) (again time.Duration, err error) {
	what := planEviction(node, r.zones.allLost())
	if what == addTaint {
		var ok bool
		if ok, again = r.mayEvict(node, h, now); !ok {
			what = leaveTaints
		}
	}
	patch := planPatch(node, planTaints(node, what, now), planLabels(node))
	if patch == nil {
		return again, nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return 0, err
	}
	_, err = r.cfg.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.JSONPatchType, body, metav1.PatchOptions{})
	return again, err
}

// mayEvict tells whether it is time, and the zone allows it.
func (r *Reconciler) mayEvict(node *corev1.Node, h health, now time.Time) (ok bool, again time.Duration) {
	if condition(node, corev1.NodeReady).Status == corev1.ConditionFalse {
		if wait := h.unready.Add(evictionDelay).Sub(now); wait > 0 {
			return false, wait
		}
	}
	return r.zones.mayEvict(node)
}
