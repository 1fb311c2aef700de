package watch

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a starting or restarting API server is asked again and
// again before the error goes to the reflector, which logs it.
const patience = 5 * time.Second

// patient is a ListWatch that asks again, milliseconds apart, while the API
// server does not listen yet or has not made its own access rules: nodes
// start with it or before it.
//
// It lists instead of streaming the list through a watch: a stream is complete
// when the API server's cache has proved itself up to date, which takes it up
// to 100 ms, while a list from the cache is followed by what happened since.
type patient struct{ of *cache.ListWatch }

var _ cache.ListerWatcherWithContext = patient{}

func (p patient) List(o metav1.ListOptions) (runtime.Object, error) {
	return p.ListWithContext(context.Background(), o)
}

func (p patient) Watch(o metav1.ListOptions) (apiwatch.Interface, error) {
	return p.WatchWithContext(context.Background(), o)
}

func (p patient) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	return ask(ctx, func() (runtime.Object, error) { return p.of.ListWithContextFunc(ctx, o) })
}

func (p patient) WatchWithContext(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	return ask(ctx, func() (apiwatch.Interface, error) { return p.of.WatchFuncWithContext(ctx, o) })
}

// IsWatchListSemanticsUnSupported makes the reflector list.
func (p patient) IsWatchListSemanticsUnSupported() bool { return true }

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
