package storage

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// freshBound is how long after a cache was made who asks it waits for its first
// content, which takes etcd some milliseconds.
const freshBound = time.Second

// fresh is a cached storage that waits for its cache while that is new.
// Upstream's refuses, and everybody comes back a second later: the first list
// of a new custom resource, and worse, the finalizer of a CustomResourceDefinition,
// whose every deletion makes a new cache. The finalizer's next try may see the
// definition as it was before the first one, takes its conflict for somebody
// else's change, and forgets the deletion until the next resync
// (apiextensions-apiserver/pkg/controller/finalizer).
type fresh struct {
	storage.Interface
	cache interface {
		Wait(context.Context) error
	}
	until time.Time
}

// filled waits for the cache, no longer than it is new. What comes then is
// the storage's own affair.
func (f *fresh) filled(ctx context.Context) {
	if !time.Now().Before(f.until) {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, f.until)
	defer cancel()
	_ = f.cache.Wait(ctx)
}

func (f *fresh) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	f.filled(ctx)
	return f.Interface.GetList(ctx, key, opts, list)
}

func (f *fresh) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	f.filled(ctx)
	return f.Interface.Watch(ctx, key, opts)
}
