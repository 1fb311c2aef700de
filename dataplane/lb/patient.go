package lb

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a starting or restarting API server is asked again and
// again before the error goes to the reflector, which logs it.
const patience = 5 * time.Second

// patiently makes list and watch ask again, milliseconds apart, while the API
// server does not listen yet or has not made its own access rules: nodes
// start with it or before it.
func patiently(lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return ask(ctx, func() (runtime.Object, error) { return lw.ListWithContextFunc(ctx, o) })
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return ask(ctx, func() (watch.Interface, error) { return lw.WatchFuncWithContext(ctx, o) })
		},
	}
}

func ask[T any](ctx context.Context, try func() (T, error)) (T, error) {
	deadline := time.Now().Add(patience)
	wait := 2 * time.Millisecond
	for {
		out, err := try()
		if err == nil || !starting(err) || time.Now().After(deadline) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(wait):
		}
		wait = min(wait*3/2, 100*time.Millisecond)
	}
}

// starting says whether an error is one that a starting API server gives.
func starting(err error) bool {
	return utilnet.IsConnectionRefused(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsServiceUnavailable(err)
}
