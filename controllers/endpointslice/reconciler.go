package endpointslice

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	upstream "k8s.io/kubernetes/pkg/controller/endpointslice"
	"k8s.io/kubernetes/pkg/features"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// maxEndpointsPerSlice is upstream's default.
const maxEndpointsPerSlice = 100

// staleRecheck is how long an event of the watch may be late before the slices
// are looked at anyway.
const staleRecheck = time.Second

// Config is what the reconciler works with.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Recorder writes events as endpoint-slice-controller.
	Recorder record.EventRecorder
}

// Reconciler writes the slices of a Service.
type Reconciler struct {
	cfg      Config
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister

	tracker  *sliceutil.EndpointSliceTracker
	triggers *sliceutil.TriggerTimeTracker
	zones    *topologycache.TopologyCache
	library  *endpointslice.Reconciler
	waiting  waiting
}

// New makes a reconciler and its listers; it starts nothing.
func New(cfg Config) *Reconciler {
	core := cfg.Informers.Core().V1()
	r := &Reconciler{
		cfg:      cfg,
		services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		slices:   cfg.Informers.Discovery().V1().EndpointSlices().Lister(),
		tracker:  sliceutil.NewEndpointSliceTracker(),
		triggers: sliceutil.NewTriggerTimeTracker(),
		zones:    topologycache.NewTopologyCache(),
		waiting:  waiting{services: map[types.NamespacedName]bool{}},
	}
	r.library = endpointslice.NewReconciler(cfg.Client, r.nodes, maxEndpointsPerSlice, r.tracker, r.zones, cfg.Recorder, upstream.ControllerName,
		endpointslice.WithPreferSameTrafficDistributionEnabled(utilfeature.DefaultFeatureGate.Enabled(features.PreferSameTrafficDistribution)))
	return r
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	metrics.RegisterMetrics()
	return ctrl.NewControllerManagedBy(mgr).
		Named(names.EndpointSliceController).
		For(&corev1.Service{}).
		Watches(&corev1.Pod{}, r.onPod()).
		Watches(&discoveryv1.EndpointSlice{}, r.onSlice()).
		Watches(&corev1.Node{}, r.onNode()).
		Complete(r)
}

// Reconcile brings the slices of a Service to what its Pods say.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	service, err := r.services.Services(req.Namespace).Get(req.Name)
	if apierrors.IsNotFound(err) {
		r.triggers.DeleteService(req.Namespace, req.Name)
		r.library.DeleteService(req.Namespace, req.Name)
		r.tracker.DeleteService(req.Namespace, req.Name)
		r.waiting.take(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	if err != nil || !wantsSlices(service) {
		return reconcile.Result{}, err
	}
	// Before the slices are read: an event after the read finds the mark.
	r.waiting.put(req.NamespacedName)
	slices, err := r.slices.EndpointSlices(req.Namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: service.Name,
		discoveryv1.LabelManagedBy:   r.library.GetControllerName(),
	}))
	if err != nil {
		return reconcile.Result{}, err
	}
	slices = present(slices)
	if r.tracker.StaleSlices(service, slices) {
		metrics.EndpointSliceSyncs.WithLabelValues("stale").Inc()
		return reconcile.Result{RequeueAfter: staleRecheck}, nil
	}
	r.waiting.take(req.NamespacedName)
	pods, err := r.pods.Pods(req.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return reconcile.Result{}, err
	}
	trigger := r.triggers.ComputeEndpointLastChangeTriggerTime(req.Namespace, service, pods)
	if err := r.library.Reconcile(klog.FromContext(ctx), service, pods, slices, trigger); err != nil {
		metrics.EndpointSliceSyncs.WithLabelValues("error").Inc()
		r.cfg.Recorder.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			"Error updating Endpoint Slices for Service %s/%s: %v", service.Namespace, service.Name, err)
		return reconcile.Result{}, err
	}
	metrics.EndpointSliceSyncs.WithLabelValues("success").Inc()
	return reconcile.Result{}, nil
}

// waiting are the Services whose last write has not come back by watch.
type waiting struct {
	// mu guards services.
	mu       sync.Mutex
	services map[types.NamespacedName]bool
}

func (w *waiting) put(service types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.services[service] = true
}

// take tells whether the Service waited, and ends that.
func (w *waiting) take(service types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	waited := w.services[service]
	delete(w.services, service)
	return waited
}
