package endpointslice

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/skiff-k8s/skiff/controllers/shared"
)

// onPod asks for the Services that select the Pod now or did before, if
// something changed that a slice shows.
func (r *Reconciler) onPod() handler.Funcs {
	ask := func(ctx context.Context, q shared.Queue, old, now client.Object) {
		services, err := sliceutil.GetServicesToUpdate(r.services, projection(old, now))
		if err != nil {
			klog.FromContext(ctx).Error(err, "services of a Pod not found")
			return
		}
		for key := range services {
			add(q, key)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q shared.Queue) { ask(ctx, q, nil, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q shared.Queue) { ask(ctx, q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q shared.Queue) { ask(ctx, q, e.Object, nil) },
	}
}

// projection keeps nil a nil interface for the library.
func projection(old, now client.Object) *sliceutil.PodProjectionKey {
	switch {
	case old == nil:
		return sliceutil.GetPodUpdateProjectionKey(nil, now)
	case now == nil:
		return sliceutil.GetPodUpdateProjectionKey(old, nil)
	default:
		return sliceutil.GetPodUpdateProjectionKey(old, now)
	}
}

// onSlice asks for a Service when somebody else changed one of its slices, or
// when it waits for its own change.
func (r *Reconciler) onSlice() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q shared.Queue) {
			if s, ok := e.Object.(*discoveryv1.EndpointSlice); ok {
				r.changed(q, s, r.library.ManagedByController(s) && r.tracker.ShouldSync(s))
			}
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*discoveryv1.EndpointSlice)
			now, ok2 := e.ObjectNew.(*discoveryv1.EndpointSlice)
			if !ok || !ok2 {
				return
			}
			if serviceOf(old) != serviceOf(now) {
				r.changed(q, old, true)
				r.changed(q, now, true)
				return
			}
			r.changed(q, now, r.library.ManagedByChanged(old, now) || r.library.ManagedByController(now) && r.tracker.ShouldSync(now))
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q shared.Queue) {
			if s, ok := e.Object.(*discoveryv1.EndpointSlice); ok {
				foreign := r.library.ManagedByController(s) && r.tracker.Has(s) && !r.tracker.HandleDeletion(s)
				r.changed(q, s, foreign)
			}
		},
	}
}

func (r *Reconciler) changed(q shared.Queue, s *discoveryv1.EndpointSlice, foreign bool) {
	service := serviceOf(s)
	if service.Name != "" && (r.waiting.take(service) || foreign) {
		q.Add(reconcile.Request{NamespacedName: service})
	}
}

func serviceOf(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// onNode tells the library how the ready nodes lie over zones, and asks for
// the Services whose hints no longer fit.
func (r *Reconciler) onNode() handler.Funcs {
	spread := func(ctx context.Context, q shared.Queue) {
		log := klog.FromContext(ctx)
		nodes, err := r.nodes.List(labels.Everything())
		if err != nil {
			log.Error(err, "nodes not listed")
			return
		}
		r.zones.SetNodes(log, nodes)
		for _, key := range r.zones.GetOverloadedServices() {
			add(q, key)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q shared.Queue) { spread(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q shared.Queue) { spread(ctx, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q shared.Queue) {
			old, ok := e.ObjectOld.(*corev1.Node)
			now, ok2 := e.ObjectNew.(*corev1.Node)
			if ok && ok2 && zonesChanged(old, now) {
				spread(ctx, q)
			}
		},
	}
}

func add(q shared.Queue, key string) {
	if namespace, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
		q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
	}
}
