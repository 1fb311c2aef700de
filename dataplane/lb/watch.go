package lb

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	proxyapis "k8s.io/kubernetes/pkg/proxy/apis"

	"github.com/skiff-k8s/skiff/dataplane/internal/watch"
)

// run watches until ctx ends. When it returns, nothing of it runs.
func (f *feed) run(ctx context.Context) {
	var wg sync.WaitGroup
	core, discovery := f.client.CoreV1(), f.client.DiscoveryV1()
	wg.Go(func() {
		watch.Reflect(ctx, "dataplane/lb Service", &corev1.Service{}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = serviceSelector
				var slabs serviceSlabs
				return list(ctx, core.RESTClient(), "services", o, func(svc *corev1.Service) *readService { return slabs.take(f.readService(svc)) })
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
				o.LabelSelector = serviceSelector
				return core.Services("").Watch(ctx, o)
			},
		}, &kindStore{feed: f, put: f.putService, drop: f.dropService, known: f.knownServices})
	})
	wg.Go(func() {
		watch.Reflect(ctx, "dataplane/lb EndpointSlice", &discoveryv1.EndpointSlice{}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = sliceSelector
				var slabs sliceSlabs
				return list(ctx, discovery.RESTClient(), "endpointslices", o, func(es *discoveryv1.EndpointSlice) *readSlice { return slabs.take(f.readSlice(es)) })
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
				o.LabelSelector = sliceSelector
				return discovery.EndpointSlices("").Watch(ctx, o)
			},
		}, &kindStore{feed: f, put: f.putSlice, drop: f.dropSlice, known: f.knownSlices})
	})
	wg.Go(func() {
		watch.Reflect(ctx, "dataplane/lb Node", &corev1.Node{}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return core.Nodes().List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
				return core.Nodes().Watch(ctx, o)
			},
		}, &kindStore{feed: f, put: f.putNode, drop: f.dropNode, known: f.knownNodes})
	})
	wg.Wait()
}

// As kube-proxy, the feed leaves out what another proxy serves and the slices
// of headless Services.
const (
	serviceSelector = "!" + proxyapis.LabelServiceProxyName
	sliceSelector   = discoveryv1.LabelServiceName + "," + serviceSelector + ",!" + corev1.IsHeadlessService
)

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
	switch o := obj.(type) {
	case *readService:
		return o.name
	case *readSlice:
		return o.name
	case metav1.Object:
		return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	}
	return types.NamespacedName{}
}
