package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	cloudnames "k8s.io/cloud-provider/names"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// Name is upstream's, of the controller that asks a cloud for load balancers.
const Name = cloudnames.ServiceLBController

// writers bounds the parallel writes of a pass.
const writers = 5

// Config is what the reconciler works with.
type Config struct {
	// Ranges are where addresses come from; a family without one has none.
	Ranges    []netip.Prefix
	Informers informers.SharedInformerFactory
	// Recorder writes events as service-controller.
	Recorder record.EventRecorder
}

// Reconciler gives Services addresses. All Services are one request, so that
// only one pass runs at a time.
type Reconciler struct {
	cfg      Config
	client   client.Client
	services corelisters.ServiceLister
	// written are resource versions of own writes that the cache may not have
	// seen yet, by UID.
	written map[types.UID]string
	// refused is what the last Event said, by UID.
	refused map[types.UID]string
}

// New makes a reconciler and its lister; it starts nothing.
func New(cfg Config) *Reconciler {
	return &Reconciler{
		cfg:      cfg,
		services: cfg.Informers.Core().V1().Services().Lister(),
		written:  map[types.UID]string{},
		refused:  map[types.UID]string{},
	}
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.client = mgr.GetClient()
	all := []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
	return ctrl.NewControllerManagedBy(mgr).
		Named(Name).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
			return all
		}), builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(e event.CreateEvent) bool { return matters(e.Object) },
			UpdateFunc: func(e event.UpdateEvent) bool { return matters(e.ObjectOld) || matters(e.ObjectNew) },
			DeleteFunc: func(e event.DeleteEvent) bool { return matters(e.Object) },
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// matters tells whether a Service has to do with addresses at all.
func matters(obj client.Object) bool {
	svc, ok := obj.(*corev1.Service)
	return ok && (svc.Spec.Type == corev1.ServiceTypeLoadBalancer || len(svc.Spec.ExternalIPs) > 0 ||
		len(svc.Status.LoadBalancer.Ingress) > 0 || servicehelper.HasLBFinalizer(svc))
}

// Reconcile plans for all Services and writes what differs. It decides only
// when the cache has seen what it wrote before: an address that was just given
// away looks free until then.
func (r *Reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	services, err := r.services.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	if r.behind(services) {
		return reconcile.Result{RequeueAfter: shared.BehindRecheck}, nil
	}
	decisions := plan(r.cfg.Ranges, services)
	written := make([]*corev1.Service, len(decisions))
	errs := make([]error, len(decisions))
	var group errgroup.Group
	group.SetLimit(writers)
	for i, d := range decisions {
		r.say(d)
		if d.done() {
			continue
		}
		group.Go(func() error {
			written[i], errs[i] = r.apply(ctx, d)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return reconcile.Result{}, err
	}
	for _, svc := range written {
		if svc != nil {
			r.written[svc.UID] = svc.ResourceVersion
		}
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// behind forgets the own writes that the cache shows, and Services that are
// gone; it tells whether a write is left.
func (r *Reconciler) behind(services []*corev1.Service) bool {
	cached := make(map[types.UID]string, len(services))
	for _, svc := range services {
		cached[svc.UID] = svc.ResourceVersion
	}
	for uid, want := range r.written {
		have, exists := cached[uid]
		if order, err := resourceversion.CompareResourceVersion(have, want); !exists || err != nil || order >= 0 {
			delete(r.written, uid)
		}
	}
	for uid := range r.refused {
		if _, exists := cached[uid]; !exists {
			delete(r.refused, uid)
		}
	}
	return len(r.written) > 0
}

// say tells in an Event what a Service does not get; once, until it changes.
func (r *Reconciler) say(d decision) {
	refusal := strings.Join(d.refusals, "; ")
	if refusal == r.refused[d.service.UID] {
		return
	}
	if refusal == "" {
		delete(r.refused, d.service.UID)
		return
	}
	r.refused[d.service.UID] = refusal
	r.cfg.Recorder.Eventf(d.service, corev1.EventTypeWarning, "SyncLoadBalancerFailed",
		"Error syncing load balancer: failed to ensure load balancer: %s", refusal)
}

// done tells whether the Service is as decided.
func (d decision) done() bool {
	return servicehelper.HasLBFinalizer(d.service) == d.finalizer &&
		equality.Semantic.DeepEqual(d.service.Status.LoadBalancer.Ingress, ingress(d.addrs))
}

// apply writes the finalizer and the status, both in one patch as upstream: a
// Service's status takes its metadata too. It returns nothing when the Service
// is another by now; its event comes here.
func (r *Reconciler) apply(ctx context.Context, d decision) (*corev1.Service, error) {
	after := d.service.DeepCopy()
	after.Status.LoadBalancer.Ingress = ingress(d.addrs)
	has := servicehelper.HasLBFinalizer(d.service)
	switch {
	case d.finalizer && !has:
		after.Finalizers = append(after.Finalizers, servicehelper.LoadBalancerCleanupFinalizer)
	case !d.finalizer && has:
		after.Finalizers = slices.DeleteFunc(after.Finalizers, func(f string) bool { return f == servicehelper.LoadBalancerCleanupFinalizer })
	}
	given := d.finalizer && len(d.addrs) > 0
	if given {
		r.cfg.Recorder.Event(d.service, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	taken := !d.finalizer && has
	if taken {
		r.cfg.Recorder.Event(d.service, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	}
	err := r.client.Status().Patch(ctx, after, client.MergeFromWithOptions(d.service, client.MergeFromWithOptimisticLock{}))
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("write status of Service %s/%s: %w", d.service.Namespace, d.service.Name, err)
	case given:
		r.cfg.Recorder.Event(d.service, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	case taken:
		r.cfg.Recorder.Event(d.service, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	}
	return after, nil
}
