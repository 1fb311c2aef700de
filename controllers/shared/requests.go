package shared

import (
	"context"
	"errors"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kubernetes/pkg/controller/util/consistency"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Queue holds what is to be reconciled.
type Queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Request asks for an object.
func Request(o client.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)}
}

// BehindRecheck is how long the event of a write may be late before the
// object is looked at anyway.
const BehindRecheck = time.Second

// CaughtUp says whether the cache has seen all own writes about an object. If
// not, the result and the error are the reconciler's.
func CaughtUp(written consistency.ConsistencyStore, name types.NamespacedName) (bool, reconcile.Result, error) {
	err := written.EnsureReady(name)
	if err == nil {
		return true, reconcile.Result{}, nil
	}
	var behind *consistency.ConsistencyError
	if errors.As(err, &behind) {
		return false, reconcile.Result{RequeueAfter: BehindRecheck}, nil
	}
	return false, reconcile.Result{}, err
}

// OnItself asks for the object, and has one that is gone forgotten.
func OnItself(forget func(context.Context, types.NamespacedName, types.UID)) handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q Queue) { q.Add(Request(e.Object)) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q Queue) {
			if e.ObjectOld.GetUID() != e.ObjectNew.GetUID() {
				// A watch that was cut shows one deleted and made again as a change.
				forget(ctx, client.ObjectKeyFromObject(e.ObjectOld), e.ObjectOld.GetUID())
			}
			q.Add(Request(e.ObjectNew))
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q Queue) {
			forget(ctx, client.ObjectKeyFromObject(e.Object), e.Object.GetUID())
			q.Add(Request(e.Object))
		},
	}
}

// OnOwned asks for the controller of an object of type T, or for those that
// may adopt it. askOwner tells whether it has a controller at all.
func OnOwned[T client.Object](askOwner func(Queue, T) bool, askAdopters func(Queue, T)) handler.Funcs {
	return On(func(_ context.Context, q Queue, o T) {
		if !askOwner(q, o) && o.GetDeletionTimestamp() == nil {
			askAdopters(q, o)
		}
	}, func(_ context.Context, q Queue, old, now T) {
		moved := !equality.Semantic.DeepEqual(metav1.GetControllerOf(old), metav1.GetControllerOf(now))
		if moved {
			askOwner(q, old)
		}
		if !askOwner(q, now) && (moved || !maps.Equal(old.GetLabels(), now.GetLabels())) {
			askAdopters(q, now)
		}
	}, func(_ context.Context, q Queue, o T) { askOwner(q, o) })
}

// On calls the functions for objects of type T as they come, change and go; a
// change is one of the resource version.
func On[T client.Object](created func(context.Context, Queue, T), updated func(ctx context.Context, q Queue, old, now T), deleted func(context.Context, Queue, T)) handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q Queue) {
			if o, ok := e.Object.(T); ok {
				created(ctx, q, o)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q Queue) {
			old, ok := e.ObjectOld.(T)
			now, ok2 := e.ObjectNew.(T)
			if ok && ok2 && old.GetResourceVersion() != now.GetResourceVersion() {
				updated(ctx, q, old, now)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q Queue) {
			if o, ok := e.Object.(T); ok {
				deleted(ctx, q, o)
			}
		},
	}
}
