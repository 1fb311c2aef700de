package shared

import (
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// retryAtLeast is the longest that a request waits after errors: what a quota
// or a webhook refuses may be allowed without an event.
const retryAtLeast = time.Minute

// Quiet are the options of a controller that has no time to wait for.
func Quiet() controller.Options { return OnClock(clock.RealClock{}) }

// OnClock are the options of a controller whose RequeueAfter counts the
// cluster's time: when its clock moves, what is due is looked at. The queue has
// no name: one with a name wakes twice a second to keep metrics.
func OnClock(c clock.WithTicker) controller.Options {
	return controller.Options{
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, retryAtLeast),
		NewQueue: func(_ string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
			return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[reconcile.Request]{Clock: c})
		},
	}
}
