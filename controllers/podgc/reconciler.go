package podgc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/podgc/metrics"
	utilpod "k8s.io/kubernetes/pkg/util/pod"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Quarantine is upstream's: how long a node may be missing before its Pods go.
const Quarantine = 40 * time.Second

// endedIndex is the index of Pods that have ended, all under one value.
const endedIndex = "podgc.ended"

// Config is what the reconciler works with.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Clock     clock.WithTicker
	// Threshold is how many Pods that have ended may stay; zero is any number.
	Threshold int
	// Quarantine defaults to the constant of this name.
	Quarantine time.Duration
}

// Reconciler looks after Pods, one at a time, and after their number.
type Reconciler struct {
	cfg   Config
	pods  cache.Indexer
	nodes corelisters.NodeLister

	// mu guards missing: since when a node that Pods name is not there.
	mu      sync.Mutex
	missing map[string]time.Time
}

// New makes a reconciler and its indices; it starts nothing.
func New(cfg Config) (*Reconciler, error) {
	if cfg.Quarantine == 0 {
		cfg.Quarantine = Quarantine
	}
	metrics.RegisterMetrics()
	pods := cfg.Informers.Core().V1().Pods().Informer()
	if err := controller.AddPodNodeNameIndexer(pods); err != nil {
		return nil, fmt.Errorf("index Pods by node: %w", err)
	}
	if err := pods.AddIndexers(cache.Indexers{endedIndex: func(o any) ([]string, error) {
		if pod, ok := o.(*corev1.Pod); ok && ended(pod) {
			return []string{""}, nil
		}
		return nil, nil
	}}); err != nil {
		return nil, fmt.Errorf("index Pods that have ended: %w", err)
	}
	return &Reconciler{
		cfg: cfg, pods: pods.GetIndexer(), nodes: cfg.Informers.Core().V1().Nodes().Lister(),
		missing: map[string]time.Time{},
	}, nil
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.PodGarbageCollectorController).
		WithOptions(shared.OnClock(r.cfg.Clock)).
		Watches(&corev1.Pod{}, r.onPod()).
		Watches(&corev1.Node{}, r.onNode()).
		Complete(r)
}

// Reconcile looks at a Pod, or at the number of those that have ended.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	if req == all {
		return reconcile.Result{}, r.deleteSurplus(ctx)
	}
	o, exists, err := r.pods.GetByKey(req.String())
	if err != nil || !exists {
		return reconcile.Result{}, err
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return reconcile.Result{}, fmt.Errorf("cache of Pods has a %T", o)
	}
	now := r.cfg.Clock.Now()
	node, err := r.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		node = nil // there is none in the cache, no other error exists
	}
	v := plan(pod, node, r.missingSince(pod.Spec.NodeName, node == nil, now), now, r.cfg.Quarantine)
	if v.reason == metrics.PodGCReasonOrphaned {
		// The cache may be behind.
		switch _, err := r.cfg.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{}); {
		case err == nil:
			return reconcile.Result{RequeueAfter: r.cfg.Quarantine}, nil
		case !apierrors.IsNotFound(err):
			return reconcile.Result{}, fmt.Errorf("node of orphaned pod: %w", err)
		}
	}
	if v.reason == "" {
		return reconcile.Result{RequeueAfter: v.wait}, nil
	}
	return reconcile.Result{}, r.delete(ctx, pod, v.reason)
}

// deleteSurplus deletes what is beyond the threshold.
func (r *Reconciler) deleteSurplus(ctx context.Context) error {
	found, err := r.pods.ByIndex(endedIndex, "")
	if err != nil {
		return err
	}
	var pods []*corev1.Pod
	for _, o := range found {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	var errs []error
	for _, pod := range surplus(pods, r.cfg.Threshold) {
		if deleted(pod) {
			continue // and held by somebody's finalizer
		}
		errs = append(errs, r.delete(ctx, pod, metrics.PodGCReasonTerminated))
	}
	return errors.Join(errs...)
}

// delete marks the Pod Failed, as its kubelet will not, and takes it away.
func (r *Reconciler) delete(ctx context.Context, pod *corev1.Pod, reason string) error {
	metrics.DeletingPodsTotal.WithLabelValues(pod.Namespace, reason).Inc()
	err := r.failAndDelete(ctx, pod, reason)
	if err = client.IgnoreNotFound(err); err != nil {
		metrics.DeletingPodsErrorTotal.WithLabelValues(pod.Namespace, reason).Inc()
		return fmt.Errorf("delete %s pod: %w", reason, err)
	}
	return nil
}

func (r *Reconciler) failAndDelete(ctx context.Context, pod *corev1.Pod, reason string) error {
	if status := failed(pod, reason); status != nil {
		if _, _, _, err := utilpod.PatchPodStatus(ctx, r.cfg.Client, pod.Namespace, pod.Name, pod.UID, pod.Status, *status); err != nil {
			return err
		}
	}
	now := metav1.NewDeleteOptions(0)
	now.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := r.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *now)
	if apierrors.IsConflict(err) {
		return nil // another Pod has the name now
	}
	return err
}

// missingNode tells whether the Pod names a node that is not in the cache.
func (r *Reconciler) missingNode(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	_, err := r.nodes.Get(pod.Spec.NodeName)
	return err != nil
}

// missingSince is when the node was first missed.
func (r *Reconciler) missingSince(name string, missing bool, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !missing {
		delete(r.missing, name)
		return now
	}
	if _, known := r.missing[name]; !known {
		r.missing[name] = now
	}
	return r.missing[name]
}

// forget ends a node's quarantine: it is there.
func (r *Reconciler) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.missing, name)
}
