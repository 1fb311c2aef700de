package lb

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	proxyapis "k8s.io/kubernetes/pkg/proxy/apis"
)

// feed holds the parts of Services, EndpointSlices and Nodes that planning
// needs, as the API server last told. No whole object is kept.
type feed struct {
	client kubernetes.Interface
	// nodeName is the node whose Node is kept for self.
	nodeName string
	// sctp says that this kernel has the protocol.
	sctp bool
	// wake gets a token when there is something to plan.
	wake chan struct{}

	// mu guards the fields below.
	mu       sync.Mutex
	services map[types.NamespacedName]*known
	// sliceOf is where each slice was when last seen.
	sliceOf map[types.NamespacedName]*known
	nodes   map[string]node
	// self is what Node answers.
	self *corev1.Node
	// dirty are the services that changed since the last take.
	dirty map[types.NamespacedName]struct{}
	// allDirty: the nodes changed, which every service may depend on.
	allDirty bool
	// since is when the oldest change of those came.
	since time.Time
	// missing counts the kinds that were not listed yet.
	missing int
}

// known is what was told of one Service; it and its slices come in any order.
type known struct {
	name types.NamespacedName
	// service is nil while there is none.
	service *service
	slices  []*slice // by name
}

func newFeed(client kubernetes.Interface, nodeName string) *feed {
	return &feed{
		client:   client,
		nodeName: nodeName,
		sctp:     haveSCTP(),
		wake:     make(chan struct{}, 1),
		services: map[types.NamespacedName]*known{},
		sliceOf:  map[types.NamespacedName]*known{},
		nodes:    map[string]node{},
		dirty:    map[types.NamespacedName]struct{}{},
		missing:  3,
	}
}

// change is what take hands over.
type change struct {
	// since is when the oldest of it came.
	since time.Time
	// all says that everything is to be compared, not just services.
	all      bool
	services []types.NamespacedName
}

// take empties what is dirty; ok is false when nothing is, or while some kind
// was not listed yet.
func (f *feed) take() (c change, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missing > 0 {
		return change{}, false
	}
	if !f.allDirty && len(f.dirty) == 0 {
		f.since = time.Time{}
		return change{}, false
	}
	c.all, c.since = f.allDirty, f.since
	f.since = time.Time{}
	if !c.all {
		c.services = byAge(f, f.dirty)
	}
	f.allDirty = false
	clear(f.dirty)
	return c, true
}

// byAge are names of services, the oldest first: who came first keeps an
// address that two ask for. mu is held.
func byAge[V any](f *feed, names map[types.NamespacedName]V) []types.NamespacedName {
	type aged struct {
		name    types.NamespacedName
		created int64
	}
	all := make([]aged, 0, len(names))
	for n := range names {
		a := aged{name: n, created: time.Time{}.Unix()}
		if k := f.services[n]; k != nil && k.service != nil {
			a.created = k.service.created
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b aged) int {
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.name.Namespace, b.name.Namespace), cmp.Compare(a.name.Name, b.name.Name))
	})
	out := make([]types.NamespacedName, len(all))
	for i, a := range all {
		out[i] = a.name
	}
	return out
}

// touch marks services for planning once more.
func (f *feed) touch(names ...types.NamespacedName) {
	f.mu.Lock()
	f.news()
	for _, n := range names {
		f.mark(n)
	}
	f.mu.Unlock()
	f.notify()
}

// mark notes that a service is to be planned once more; mu is held. Until all
// kinds were listed that goes without saying.
func (f *feed) mark(name types.NamespacedName) {
	if f.missing == 0 {
		f.dirty[name] = struct{}{}
	}
}

// news notes that a change has come; mu is held.
func (f *feed) news() {
	if f.since.IsZero() {
		f.since = time.Now()
	}
}

func (f *feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run watches until ctx ends. When it returns, nothing of it runs.
func (f *feed) run(ctx context.Context) {
	var wg sync.WaitGroup
	core, discovery := f.client.CoreV1(), f.client.DiscoveryV1()
	wg.Go(func() {
		watchKind(ctx, &corev1.Service{}, &kindStore{feed: f, put: f.putService, drop: f.dropService, known: f.knownServices}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = serviceSelector
				return core.Services("").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = serviceSelector
				return core.Services("").Watch(ctx, o)
			},
		})
	})
	wg.Go(func() {
		watchKind(ctx, &discoveryv1.EndpointSlice{}, &kindStore{feed: f, put: f.putSlice, drop: f.dropSlice, known: f.knownSlices}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = sliceSelector
				return discovery.EndpointSlices("").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = sliceSelector
				return discovery.EndpointSlices("").Watch(ctx, o)
			},
		})
	})
	wg.Go(func() {
		watchKind(ctx, &corev1.Node{}, &kindStore{feed: f, put: f.putNode, drop: f.dropNode, known: f.knownNodes}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return core.Nodes().List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return core.Nodes().Watch(ctx, o)
			},
		})
	})
	wg.Wait()
}

// As kube-proxy, the feed leaves out what another proxy serves and the slices
// of headless Services.
const (
	serviceSelector = "!" + proxyapis.LabelServiceProxyName
	sliceSelector   = discoveryv1.LabelServiceName + "," + serviceSelector + ",!" + corev1.IsHeadlessService
)

// watchKind keeps a store equal to the API server's objects of one kind.
func watchKind(ctx context.Context, example runtime.Object, store *kindStore, lw *cache.ListWatch) {
	cache.NewReflectorWithOptions(patient{lw}, example, store, cache.ReflectorOptions{
		Name: fmt.Sprintf("dataplane/lb %T", example),
		Backoff: &wait.Backoff{
			Duration: 10 * time.Millisecond,
			Factor:   2,
			Jitter:   0.2,
			Steps:    8,
			Cap:      2 * time.Second,
		},
	}).RunWithContext(ctx)
}

// kindStore turns a reflector's calls into changes of the feed.
type kindStore struct {
	feed   *feed
	put    func(any)                     // under mu
	drop   func(types.NamespacedName)    // under mu
	known  func() []types.NamespacedName // under mu
	listed bool                          // under mu
}

var _ cache.ReflectorStore = (*kindStore)(nil)

func (s *kindStore) Add(obj any) error { return s.Update(obj) }
func (s *kindStore) Resync() error     { return nil }

func (s *kindStore) Update(obj any) error {
	s.feed.mu.Lock()
	s.feed.news()
	s.put(obj)
	s.feed.mu.Unlock()
	s.feed.notify()
	return nil
}

func (s *kindStore) Delete(obj any) error {
	s.feed.mu.Lock()
	s.feed.news()
	s.drop(nameOf(obj))
	s.feed.mu.Unlock()
	s.feed.notify()
	return nil
}

func (s *kindStore) Replace(objs []any, _ string) error {
	s.feed.mu.Lock()
	s.feed.news()
	for _, o := range objs {
		s.put(o)
	}
	if s.listed {
		s.dropOthers(objs)
	}
	if !s.listed {
		s.listed = true
		s.feed.missing--
		if s.feed.missing == 0 {
			s.feed.allDirty = true
		}
	}
	s.feed.mu.Unlock()
	s.feed.notify()
	return nil
}

// dropOthers drops what a new list has no more.
func (s *kindStore) dropOthers(objs []any) {
	now := make(map[types.NamespacedName]struct{}, len(objs))
	for _, o := range objs {
		now[nameOf(o)] = struct{}{}
	}
	for _, n := range s.known() {
		if _, ok := now[n]; !ok {
			s.drop(n)
		}
	}
}

func nameOf(obj any) types.NamespacedName {
	if o, ok := obj.(metav1.Object); ok {
		return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	}
	return types.NamespacedName{}
}

// at is what is known of a service; mu is held.
func (f *feed) at(name types.NamespacedName) *known {
	k := f.services[name]
	if k == nil {
		k = &known{name: name}
		f.services[name] = k
	}
	return k
}

// forget drops what says nothing (any more); mu is held.
func (f *feed) forget(k *known) {
	if k.service == nil && len(k.slices) == 0 {
		delete(f.services, k.name)
	}
}

func (f *feed) putService(obj any) {
	svc := obj.(*corev1.Service)
	s := newService(svc, f.sctp)
	if s == nil {
		f.dropService(nameOf(svc))
		return
	}
	k := f.at(s.name)
	s.name = k.name // one copy of it
	k.service = s
	f.mark(k.name)
}

func (f *feed) dropService(name types.NamespacedName) {
	if k := f.services[name]; k != nil && k.service != nil {
		k.service = nil
		f.forget(k)
		f.mark(name)
	}
}

func (f *feed) knownServices() []types.NamespacedName {
	var out []types.NamespacedName
	for name, k := range f.services {
		if k.service != nil {
			out = append(out, name)
		}
	}
	return out
}

func (f *feed) putSlice(obj any) {
	es := obj.(*discoveryv1.EndpointSlice)
	namespace := shared(es.Namespace)
	name := types.NamespacedName{Namespace: namespace, Name: es.Name}
	svc := types.NamespacedName{Namespace: namespace, Name: es.Labels[discoveryv1.LabelServiceName]}
	if before := f.sliceOf[name]; before != nil && before.name != svc {
		f.dropSlice(name)
	}
	s := newSlice(es)
	if s == nil {
		f.dropSlice(name)
		return
	}
	k := f.at(svc)
	if i, has := k.find(s.name); has {
		k.slices[i] = s
	} else {
		k.slices = slices.Insert(k.slices, i, s)
	}
	f.sliceOf[name] = k
	f.mark(svc)
}

func (f *feed) dropSlice(name types.NamespacedName) {
	k := f.sliceOf[name]
	if k == nil {
		return
	}
	delete(f.sliceOf, name)
	if i, has := k.find(name.Name); has {
		k.slices = slices.Delete(k.slices, i, i+1)
	}
	f.forget(k)
	f.mark(k.name)
}

// find is the place of a slice.
func (k *known) find(name string) (int, bool) {
	return slices.BinarySearchFunc(k.slices, name, func(s *slice, name string) int { return cmp.Compare(s.name, name) })
}

func (f *feed) knownSlices() []types.NamespacedName {
	return slices.Collect(maps.Keys(f.sliceOf))
}

func (f *feed) putNode(obj any) {
	n := newNode(obj.(*corev1.Node))
	name := obj.(*corev1.Node).Name
	if name == f.nodeName {
		full := obj.(*corev1.Node)
		f.self = &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, DeletionTimestamp: full.DeletionTimestamp},
			Spec:       corev1.NodeSpec{Taints: full.Spec.Taints},
		}
	}
	if have, ok := f.nodes[name]; ok && have.zone == n.zone && slices.Equal(have.addrs, n.addrs) {
		return
	}
	// Plans hold on to the map they were given.
	f.nodes = maps.Clone(f.nodes)
	f.nodes[name] = n
	f.allDirty = true
}

func (f *feed) dropNode(name types.NamespacedName) {
	if name.Name == f.nodeName {
		f.self = nil
	}
	if _, ok := f.nodes[name.Name]; ok {
		f.nodes = maps.Clone(f.nodes)
		delete(f.nodes, name.Name)
		f.allDirty = true
	}
}

// Node is this node's own Node, as far as load balancers ask about it; nil
// when there is none.
func (f *feed) Node() *corev1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.self
}

func (f *feed) knownNodes() []types.NamespacedName {
	var out []types.NamespacedName
	for n := range f.nodes {
		out = append(out, types.NamespacedName{Name: n})
	}
	return out
}
