package storage

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericfeatures "k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	cacherstorage "k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// Shared gives upstream's registries one etcd client for all resources, where
// they would open a gRPC connection each.
type Shared struct {
	storage   *Storage
	client    *kubernetes.Client
	compactor etcd3.Compactor
	prompter  prompter

	// mu guards the fields below.
	mu sync.Mutex
	// first are the caches that were made before somebody waited for them,
	// which is once.
	first  []*cacherstorage.Cacher
	waited bool
}

// Share returns at once; its registries work after Start.
func (s *Storage) Share() *Shared { return &Shared{storage: s} }

// Start waits for the client, no longer than ctx, and starts the compactor,
// which ends with life. Feature gates must have their final values.
func (s *Shared) Start(ctx, life context.Context) error {
	client, err := s.storage.Client(ctx)
	if err != nil {
		return err
	}
	s.client = client
	if s.storage.Embedded() {
		// An in-process client has no endpoints for upstream to ask, and no
		// RangeStream.
		etcdfeature.DefaultFeatureSupportChecker.CheckClient(life, named{client.Client}, storage.RequestWatchProgress)
		etcdfeature.DefaultFeatureSupportChecker.MarkUnsupported(storage.RangeStream)
	}
	if interval := s.storage.CompactionInterval(); interval > 0 {
		compactor := etcd3.NewCompactor(client.Client, interval, clock.RealClock{}, nil)
		context.AfterFunc(life, compactor.Stop)
		s.compactor = compactor
	}
	return nil
}

// named is an etcd client under the one name by which upstream may ask for
// its version.
type named struct{ *clientv3.Client }

func (named) Endpoints() []string { return []string{MemberName} }

// RESTOptions returns getter with the storage of every resource replaced by
// one on the shared client. What is cached, and how, stays as getter says.
func (s *Shared) RESTOptions(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return restOptions{getter, s}
}

type restOptions struct {
	generic.RESTOptionsGetter
	shared *Shared
}

var undecorated = reflect.ValueOf(generic.UndecoratedStorage).Pointer()

func (r restOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := r.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return opts, err
	}
	if reflect.ValueOf(opts.Decorator).Pointer() == undecorated {
		opts.Decorator = r.shared.uncached
	} else {
		opts.Decorator = r.shared.cached
	}
	return opts, nil
}

// raw is upstream's factory.Create on the shared client.
func (s *Shared) raw(config *storagebackend.ConfigForResource, resourcePrefix string,
	newFunc, newListFunc func() runtime.Object) (storage.Interface, factory.DestroyFunc, error) {
	transformer := config.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	decoder := etcd3.NewDefaultDecoder(config.Codec, versioner)
	unsafeDelete := utilfeature.DefaultFeatureGate.Enabled(genericfeatures.AllowUnsafeMalformedObjectDeletion)
	if unsafeDelete {
		transformer = etcd3.WithCorruptObjErrorHandlingTransformer(transformer)
		decoder = etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	store, err := etcd3.New(s.client, s.compactor, config.Codec, newFunc, newListFunc, config.Prefix, resourcePrefix,
		config.GroupResource, transformer, config.LeaseManagerConfig, decoder, versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("make storage of %s: %w", config.GroupResource, err)
	}
	// Subresources share their storage and destroy it each.
	destroy := sync.OnceFunc(store.Close)
	if unsafeDelete {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(store, config.GroupResource), destroy, nil
	}
	return store, destroy, nil
}

func (s *Shared) uncached(config *storagebackend.ConfigForResource, resourcePrefix string,
	_ func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
	_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	return s.raw(config, resourcePrefix, newFunc, newListFunc)
}

// cached is upstream's registry.StorageWithCacher on the shared client.
func (s *Shared) cached(config *storagebackend.ConfigForResource, resourcePrefix string,
	keyFunc func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
	attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	plain, destroyRaw, err := s.raw(config, resourcePrefix, newFunc, newListFunc)
	if err != nil {
		return nil, nil, err
	}
	raw := &prompted{Interface: plain, prompter: &s.prompter}
	cacher, err := cacherstorage.NewCacherFromConfig(cacherstorage.Config{
		Storage:             raw,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             keyFunc,
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        attrs,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               config.Codec,
	})
	if err != nil {
		destroyRaw()
		return nil, nil, fmt.Errorf("make cache of %s: %w", config.GroupResource, err)
	}
	s.remember(cacher)
	delegator := cacherstorage.NewCacheDelegator(cacher, raw)
	return &fresh{Interface: delegator, cache: cacher, until: time.Now().Add(freshBound)}, sync.OnceFunc(func() {
		delegator.Stop()
		cacher.Stop()
		destroyRaw()
	}), nil
}

func (s *Shared) remember(c *cacherstorage.Cacher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waited {
		s.first = append(s.first, c)
	}
}

// WaitForCaches returns when the caches made so far hold what etcd does, or
// with ctx. Who asks a cache before is told to come back in a second, and so
// is an informer: a start may take a second longer for a cache that was a
// hundredth of one late.
func (s *Shared) WaitForCaches(ctx context.Context) error {
	s.mu.Lock()
	caches := s.first
	s.first, s.waited = nil, true
	s.mu.Unlock()
	for _, c := range caches {
		if err := c.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the caches of etcd: %w", err)
		}
	}
	return nil
}

// Check returns a health check with upstream's key, timeout and pace: at most
// one question in half the timeout, the last answer in between.
func (s *Shared) Check(prefix string, timeout time.Duration) func() error {
	var (
		mu   sync.Mutex
		next time.Time
		last error
	)
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if now.Before(next) {
			return last
		}
		next = now.Add(timeout / 2)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if _, last = s.client.KV.Get(ctx, path.Join("/", prefix, "health")); last != nil {
			last = fmt.Errorf("read from etcd: %w", last)
		}
		return last
	}
}
