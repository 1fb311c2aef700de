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
	services map[types.NamespacedName]*service
	slices   map[types.NamespacedName]map[string]*slice
	// sliceOf is the service that each slice belonged to when last seen.
	sliceOf map[types.NamespacedName]types.NamespacedName
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

func newFeed(client kubernetes.Interface, nodeName string) *feed {
	return &feed{
		client:   client,
		nodeName: nodeName,
		sctp:     haveSCTP(),
		wake:     make(chan struct{}, 1),
		services: map[types.NamespacedName]*service{},
		slices:   map[types.NamespacedName]map[string]*slice{},
		sliceOf:  map[types.NamespacedName]types.NamespacedName{},
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
	c.services = byAge(f, f.dirty)
	f.allDirty = false
	clear(f.dirty)
	return c, true
}

// byAge are names of services, the oldest first: who came first keeps an
// address that two ask for. mu is held.
func byAge[V any](f *feed, names map[types.NamespacedName]V) []types.NamespacedName {
	created := func(n types.NamespacedName) time.Time {
		if s := f.services[n]; s != nil {
			return s.created
		}
		return time.Time{}
	}
	return slices.SortedFunc(maps.Keys(names), func(a, b types.NamespacedName) int {
		return cmp.Or(created(a).Compare(created(b)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

// touch marks services for planning once more.
func (f *feed) touch(names ...types.NamespacedName) {
	f.mu.Lock()
	f.news()
	for _, n := range names {
		f.dirty[n] = struct{}{}
	}
	f.mu.Unlock()
	f.notify()
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
	now := make(map[types.NamespacedName]struct{}, len(objs))
	for _, o := range objs {
		now[nameOf(o)] = struct{}{}
		s.put(o)
	}
	for _, n := range s.known() {
		if _, ok := now[n]; !ok {
			s.drop(n)
		}
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

func nameOf(obj any) types.NamespacedName {
	if o, ok := obj.(metav1.Object); ok {
		return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	}
	return types.NamespacedName{}
}

func (f *feed) putService(obj any) {
	svc := obj.(*corev1.Service)
	name := nameOf(svc)
	s := newService(svc, f.sctp)
	if s == nil {
		f.dropService(name)
		return
	}
	f.services[name] = s
	f.dirty[name] = struct{}{}
}

func (f *feed) dropService(name types.NamespacedName) {
	if _, ok := f.services[name]; ok {
		delete(f.services, name)
		f.dirty[name] = struct{}{}
	}
}

func (f *feed) knownServices() []types.NamespacedName {
	return slices.Collect(maps.Keys(f.services))
}

func (f *feed) putSlice(obj any) {
	es := obj.(*discoveryv1.EndpointSlice)
	name := nameOf(es)
	svc := types.NamespacedName{Namespace: es.Namespace, Name: es.Labels[discoveryv1.LabelServiceName]}
	if before, ok := f.sliceOf[name]; ok && before != svc {
		f.dropSlice(name)
	}
	s := newSlice(es)
	if s == nil {
		f.dropSlice(name)
		return
	}
	if f.slices[svc] == nil {
		f.slices[svc] = map[string]*slice{}
	}
	f.slices[svc][es.Name] = s
	f.sliceOf[name] = svc
	f.dirty[svc] = struct{}{}
}

func (f *feed) dropSlice(name types.NamespacedName) {
	svc, ok := f.sliceOf[name]
	if !ok {
		return
	}
	delete(f.sliceOf, name)
	delete(f.slices[svc], name.Name)
	if len(f.slices[svc]) == 0 {
		delete(f.slices, svc)
	}
	f.dirty[svc] = struct{}{}
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
