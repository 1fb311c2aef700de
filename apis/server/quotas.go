package server

import (
	"context"
	"path"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	registry "k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

const (
	// quotaBound is how long a request waits for the admission's view of its
	// namespace's quotas. Then that is as old as upstream's may always be.
	quotaBound = time.Second
	// quotaRecheck is how often the view is looked at meanwhile: its store
	// tells nobody that it changed.
	quotaRecheck = 500 * time.Microsecond
)

// quotas lets the admission of ResourceQuotas decide by what this server has
// written. Upstream's decides by an informer, which is some milliseconds
// behind, and more on a busy machine: a quota whose status a client has just
// read may not be in force for the client's next request. Nobody sees that
// where a quota's status takes a second to come; here it takes milliseconds.
//
// What another API server wrote is seen as upstream's sees it.
type quotas struct {
	// seen is the resource version up to which the informer has come.
	seen func() uint64

	// mu guards the field below.
	mu sync.Mutex
	// namespaces with writes that the informer has perhaps not seen.
	namespaces map[string]*quotaWrites
}

// quotaWrites are those in one namespace.
type quotaWrites struct {
	// last is the resource version of the newest one that has ended.
	last    uint64
	pending map[*quotaWrite]struct{}
}

// quotaWrite is one write to the storage.
type quotaWrite struct {
	// ended is closed when version is set.
	ended chan struct{}
	// version is the resource version written, 0 when nothing was.
	version uint64
}

func newQuotas(store cache.Store) *quotas {
	return &quotas{namespaces: map[string]*quotaWrites{}, seen: func() uint64 {
		// Empty with client-go's AtomicFIFO off: then nothing is waited for.
		at := store.LastStoreSyncResourceVersion()
		if at == "" {
			return ^uint64(0)
		}
		version, _ := strconv.ParseUint(at, 10, 64)
		return version
	}}
}

// begin notes that a quota of the namespace is about to be written. The
// function that it returns wants what was written, or nil.
func (q *quotas) begin(namespace string) (end func(runtime.Object)) {
	write := &quotaWrite{ended: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	writes := q.namespaces[namespace]
	if writes == nil {
		q.sweep()
		writes = &quotaWrites{pending: map[*quotaWrite]struct{}{}}
		q.namespaces[namespace] = writes
	}
	writes.pending[write] = struct{}{}
	return func(written runtime.Object) {
		if written != nil {
			write.version, _ = storage.APIObjectVersioner{}.ObjectResourceVersion(written)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		writes.last = max(writes.last, write.version)
		delete(writes.pending, write)
		close(write.ended)
	}
}

// sweep forgets the namespaces of which the informer has seen all.
func (q *quotas) sweep() {
	seen := q.seen()
	for name, writes := range q.namespaces {
		if len(writes.pending) == 0 && writes.last <= seen {
			delete(q.namespaces, name)
		}
	}
}

// wait returns when the informer has seen the namespace's writes that began
// before, or after quotaBound.
func (q *quotas) wait(ctx context.Context, namespace string) {
	version, pending := q.begun(namespace)
	if version == 0 && len(pending) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quotaBound)
	defer cancel()
	for _, write := range pending {
		select {
		case <-write.ended:
			version = max(version, write.version)
		case <-ctx.Done():
			return
		}
	}
	// A view that stays behind decides as it is.
	_ = wait.PollUntilContextCancel(ctx, quotaRecheck, true, func(context.Context) (bool, error) {
		return q.seen() >= version, nil
	})
}

// begun are the namespace's writes so far: the resource version of those that
// have ended, and the others.
func (q *quotas) begun(namespace string) (uint64, []*quotaWrite) {
	q.mu.Lock()
	defer q.mu.Unlock()
	writes := q.namespaces[namespace]
	if writes == nil {
		return 0, nil
	}
	pending := make([]*quotaWrite, 0, len(writes.pending))
	for write := range writes.pending {
		pending = append(pending, write)
	}
	return writes.last, pending
}

// Decorate implements admission.Decorator.
func (q *quotas) Decorate(plugin admission.Interface, name string) admission.Interface {
	validation, ok := plugin.(admission.ValidationInterface)
	if name != resourcequota.PluginName || !ok {
		return plugin
	}
	return quotaAdmission{validation, q}
}

// quotaAdmission is upstream's plugin with a view that is current.
type quotaAdmission struct {
	admission.ValidationInterface
	quotas *quotas
}

func (a quotaAdmission) Validate(ctx context.Context, attributes admission.Attributes, o admission.ObjectInterfaces) error {
	// A write of a quota, the plugin's own as well, is validated while it is
	// pending.
	if attributes.GetResource().GroupResource() != corev1.Resource("resourcequotas") {
		a.quotas.wait(ctx, attributes.GetNamespace())
	}
	return a.ValidationInterface.Validate(ctx, attributes, o)
}

// RESTOptions returns getter with the storage of ResourceQuotas replaced by
// one that notes what it writes.
func (q *quotas) RESTOptions(getter registry.RESTOptionsGetter) registry.RESTOptionsGetter {
	return quotaOptions{getter, q}
}

type quotaOptions struct {
	registry.RESTOptionsGetter
	quotas *quotas
}

func (g quotaOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (registry.RESTOptions, error) {
	opts, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil || resource != corev1.Resource("resourcequotas") {
		return opts, err
	}
	decorate := opts.Decorator
	opts.Decorator = func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error),
		object, list func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := decorate(config, prefix, key, object, list, attrs, triggers, indexers)
		return quotaStorage{s, g.quotas}, destroy, err
	}
	return opts, nil
}

// quotaStorage notes every write.
type quotaStorage struct {
	storage.Interface
	quotas *quotas
}

// note runs a write to the key, which ends in the namespace and the name, and
// leaves what it wrote in out.
func (s quotaStorage) note(key string, out runtime.Object, write func() error) error {
	end := s.quotas.begin(path.Base(path.Dir(key)))
	var written runtime.Object
	// Also when a validation panics.
	defer func() { end(written) }()
	err := write()
	if err == nil {
		written = out
	}
	return err
}

func (s quotaStorage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.note(key, out, func() error { return s.Interface.Create(ctx, key, obj, out, ttl) })
}

func (s quotaStorage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	return s.note(key, out, func() error {
		return s.Interface.Delete(ctx, key, out, preconditions, validate, cached, opts)
	})
}

func (s quotaStorage) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, update storage.UpdateFunc, cached runtime.Object) error {
	return s.note(key, destination, func() error {
		return s.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, update, cached)
	})
}
