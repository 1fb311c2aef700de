package shared

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Cache is controller-runtime's cache over the informers of a
// client-go factory, so that upstream's controllers and ours hold one copy of
// each object and one watch of each kind.
//
// It also takes away controller-runtime's two fixed waits of 100 ms (polls
// for HasSynced of an informer and of an event handler) by waiting on
// client-go's channels instead.
type Cache struct {
	cache.Cache
	factory informers.SharedInformerFactory
	// started is closed when every informer known at the start runs.
	started chan struct{}

	// mu guards ctx, which ends the waits for event handlers.
	mu  sync.Mutex
	ctx context.Context
}

// NewCache makes a Cache over the factory's informers.
func NewCache(factory informers.SharedInformerFactory) cache.NewCacheFunc {
	return func(config *rest.Config, opts cache.Options) (cache.Cache, error) {
		c := &Cache{factory: factory, started: make(chan struct{})}
		opts.NewInformer = c.newInformer
		inner, err := cache.New(config, opts)
		if err != nil {
			return nil, err
		}
		c.Cache = inner
		return c, nil
	}
}

// newInformer gives controller-runtime the factory's informer of the kind,
// made by whoever asked first. Unstructured objects and bare metadata have one
// Go type for all kinds; the factory cannot hold them.
func (c *Cache) newInformer(lw toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	switch obj.(type) {
	case runtime.Unstructured, *metav1.PartialObjectMetadata:
		return toolscache.NewSharedIndexInformer(lw, obj, resync, indexers)
	}
	informer := c.factory.InformerFor(obj, func(_ kubernetes.Interface, _ time.Duration) toolscache.SharedIndexInformer {
		return toolscache.NewSharedIndexInformer(lw, obj, resync, indexers)
	})
	return &factoryInformer{SharedIndexInformer: informer, factory: c.factory}
}

// Start runs the informers until ctx ends, and returns when all have stopped.
func (c *Cache) Start(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	c.factory.StartWithContext(ctx)
	defer c.factory.Shutdown()
	close(c.started)
	return c.Cache.Start(ctx)
}

// WaitForCacheSync waits for every informer that runs, upstream's too.
func (c *Cache) WaitForCacheSync(ctx context.Context) bool {
	select {
	case <-c.started:
	case <-ctx.Done():
		return false
	}
	return c.factory.WaitForCacheSyncWithContext(ctx).Err == nil
}

// GetInformer returns the informer of obj's kind, synced when the cache runs.
func (c *Cache) GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := c.Cache.GetInformer(ctx, obj, append(opts, cache.BlockUntilSynced(false))...)
	if err != nil {
		return nil, err
	}
	return c.synced(ctx, informer)
}

// GetInformerForKind is GetInformer by kind.
func (c *Cache) GetInformerForKind(ctx context.Context, gvk schema.GroupVersionKind, opts ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := c.Cache.GetInformerForKind(ctx, gvk, append(opts, cache.BlockUntilSynced(false))...)
	if err != nil {
		return nil, err
	}
	return c.synced(ctx, informer)
}

func (c *Cache) synced(ctx context.Context, informer cache.Informer) (cache.Informer, error) {
	c.mu.Lock()
	running := c.ctx
	c.mu.Unlock()
	shared, ok := informer.(toolscache.SharedIndexInformer)
	if running == nil || !ok {
		return informer, nil
	}
	if !toolscache.WaitFor(ctx, "" /* no logging */, shared.HasSyncedChecker()) {
		return nil, context.Cause(ctx)
	}
	return &handlerSyncInformer{SharedIndexInformer: shared, ctx: running}, nil
}

// factoryInformer is started through its factory, whoever starts it.
type factoryInformer struct {
	toolscache.SharedIndexInformer
	factory informers.SharedInformerFactory
}

// SetTransform leaves the factory's transform in place: the informer may run
// already, and both want the same one.
func (*factoryInformer) SetTransform(toolscache.TransformFunc) error { return nil }

// RunWithContext starts the informer unless it runs, and returns when ctx ends.
func (i *factoryInformer) RunWithContext(ctx context.Context) {
	i.factory.StartWithContext(ctx)
	<-ctx.Done()
}

// handlerSyncInformer returns from AddEventHandlerWithOptions when the handler
// has seen the initial list. controller-runtime calls it in a goroutine of its
// own and polls for the same afterwards.
type handlerSyncInformer struct {
	toolscache.SharedIndexInformer
	ctx context.Context
}

func (i *handlerSyncInformer) AddEventHandlerWithOptions(handler toolscache.ResourceEventHandler, options toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandlerWithOptions(handler, options)
	if err == nil {
		toolscache.WaitFor(i.ctx, "" /* no logging */, registration.HasSyncedChecker())
	}
	return registration, err
}
