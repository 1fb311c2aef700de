package tainteviction

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/tainteviction/metrics"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Config is what the reconciler works with.
type Config = shared.Config

// Reconciler evicts Pods, one at a time.
type Reconciler struct {
	cfg   Config
	pods  cache.Indexer
	nodes corelisters.NodeLister

	// mu guards planned. A Pod's entry is its reconciler's alone.
	mu      sync.Mutex
	planned map[types.NamespacedName]*eviction
}

// eviction is the end of a Pod.
type eviction struct {
	pod types.UID
	at  time.Time
	// told is set when the event is out, and the rest may have to be tried again.
	told bool
}

// New makes a reconciler and its index; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	metrics.Register()
	pods := cfg.Informers.Core().V1().Pods().Informer()
	if err := controller.AddPodNodeNameIndexer(pods); err != nil {
		return nil, fmt.Errorf("index Pods by node: %w", err)
	}
	return &Reconciler{
		cfg: cfg, pods: pods.GetIndexer(), nodes: cfg.Informers.Core().V1().Nodes().Lister(),
		planned: map[types.NamespacedName]*eviction{},
	}, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.TaintEvictionController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&corev1.Pod{}, r.onPod()).
		Watches(&corev1.Node{}, r.onNode()).
		Complete(r)
}

// Reconcile plans a Pod's eviction, carries it out, or gives it up.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	o, exists, err := r.pods.GetByKey(req.String())
	if err != nil {
		return reconcile.Result{}, err
	}
	pod, ok := o.(*corev1.Pod)
	if exists && !ok {
		return reconcile.Result{}, fmt.Errorf("cache of Pods has a %T", o)
	}
	if e := r.of(req.NamespacedName); e != nil && (!exists || e.pod != pod.UID) {
		r.cancel(req.NamespacedName)
	}
	if !exists || evicted(pod) {
		r.set(req.NamespacedName, nil)
		return reconcile.Result{}, nil
	}
	e := r.decide(req.NamespacedName, pod)
	if e == nil {
		return reconcile.Result{}, nil
	}
	if left := e.at.Sub(r.cfg.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if !e.told {
		e.told = true
		r.say(req.NamespacedName, "Marking for deletion Pod %s")
	}
	if err := r.evict(ctx, pod); err != nil {
		return reconcile.Result{}, fmt.Errorf("evict Pod %s from node %s: %w", req, pod.Spec.NodeName, err)
	}
	r.set(req.NamespacedName, nil)
	metrics.PodDeletionsTotal.Inc()
	metrics.PodDeletionsLatency.Observe(r.cfg.Clock.Since(e.at).Seconds())
	return reconcile.Result{}, nil
}

// decide is what is planned for the Pod from now on.
func (r *Reconciler) decide(name types.NamespacedName, pod *corev1.Pod) *eviction {
	e := r.of(name)
	node, err := r.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return e // a node that is gone changes nothing
	}
	now := r.cfg.Clock.Now()
	switch v, after := plan(pod, noExecute(node.Spec.Taints)); {
	case v == cancel:
		e = r.cancel(name)
	case e != nil && e.told: // under way
	case v == evict:
		r.cancel(name)
		e = r.set(name, &eviction{pod: pod.UID, at: now})
	case e == nil:
		e = r.set(name, &eviction{pod: pod.UID, at: now.Add(after)})
	}
	return e
}

// evict says why, and deletes the Pod.
func (r *Reconciler) evict(ctx context.Context, pod *corev1.Pod) error {
	if status := marked(pod, r.cfg.Clock.Now()); status != nil {
		if _, _, _, err := utilpod.PatchPodStatus(ctx, r.cfg.Client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status); err != nil {
			return err
		}
	}
	err := r.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if apierrors.IsConflict(err) {
		return nil // another Pod has the name now
	}
	return client.IgnoreNotFound(err)
}

func (r *Reconciler) of(pod types.NamespacedName) *eviction {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.planned[pod]
}

func (r *Reconciler) set(pod types.NamespacedName, e *eviction) *eviction {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.planned[pod] = e; e == nil {
		delete(r.planned, pod)
	}
	return e
}

// cancel gives up what is planned, if anything, and says so.
func (r *Reconciler) cancel(pod types.NamespacedName) *eviction {
	if e := r.of(pod); e != nil && !e.told {
		r.say(pod, "Cancelling deletion of Pod %s")
	}
	return r.set(pod, nil)
}

func (r *Reconciler) say(pod types.NamespacedName, format string) {
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, Namespace: pod.Namespace}
	r.cfg.Recorder.Eventf(ref, corev1.EventTypeNormal, "TaintManagerEviction", format, pod)
}
