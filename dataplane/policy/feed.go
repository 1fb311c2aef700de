package policy

import (
	"context"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/dataplane/inet"
	"github.com/skiff-k8s/skiff/dataplane/internal/watch"
)

// Cluster DNS, which may be served by a process that is no pod.
const (
	dnsNamespace = metav1.NamespaceSystem
	dnsService   = "kube-dns"
)

// dnsLabels are those that kubeadm's pods of cluster DNS have.
var dnsLabels = map[string]string{"k8s-app": dnsService}

// peersWatch watches what policies select, while there are policies.
type peersWatch struct {
	cancel context.CancelFunc
	done   chan struct{}
	// missing counts the kinds that were not listed yet.
	missing int
}

// lister makes a ListWatch of a typed client.
func lister[L runtime.Object](
	list func(context.Context, metav1.ListOptions) (L, error),
	watch func(context.Context, metav1.ListOptions) (apiwatch.Interface, error),
	selector string,
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.LabelSelector = selector
			return watch(ctx, o)
		},
	}
}

// watchPolicies runs until ctx ends.
func (l *Loader) watchPolicies(ctx context.Context) {
	policies := l.cfg.Client.NetworkingV1().NetworkPolicies("")
	watch.Run(ctx, watch.Kind{
		Name: "dataplane/policy NetworkPolicy", Example: &networkingv1.NetworkPolicy{},
		ListWatch: lister(policies.List, policies.Watch, ""),
		Set: func(obj any) {
			p := newPolicy(obj.(*networkingv1.NetworkPolicy))
			l.change(nil, func() {
				l.model.setPolicy(p)
				if len(p.problems) > 0 {
					l.report.problem(p, ReasonInvalid, p.problems[0])
				}
			})
		},
		Delete: func(name types.NamespacedName) {
			l.change(nil, func() { l.model.deletePolicy(name) })
		},
		Listed: func() {
			l.change(nil, func() { l.listed = true })
		},
	})
}

// startPeers begins to watch Pods, Namespaces and the endpoints of cluster
// DNS. Called with mu held.
func (l *Loader) startPeers(ctx context.Context) *peersWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &peersWatch{cancel: cancel, done: make(chan struct{})}
	core := l.cfg.Client.CoreV1()
	pods, namespaces := core.Pods(""), core.Namespaces()
	slices := l.cfg.Client.DiscoveryV1().EndpointSlices(dnsNamespace)
	kinds := []watch.Kind{
		{
			Name: "dataplane/policy Pod", Example: &corev1.Pod{}, ListWatch: lister(pods.List, pods.Watch, ""),
			Set: func(obj any) {
				object := obj.(*corev1.Pod)
				p := podOf(object)
				l.change(w, func() {
					if p == nil {
						l.model.deletePod(types.NamespacedName{Namespace: object.Namespace, Name: object.Name})
					} else {
						l.model.setPod(*p)
					}
				})
			},
			Delete: func(name types.NamespacedName) {
				l.change(w, func() { l.model.deletePod(name) })
			},
		},
		{
			Name: "dataplane/policy Namespace", Example: &corev1.Namespace{}, ListWatch: lister(namespaces.List, namespaces.Watch, ""),
			Set: func(obj any) {
				ns := obj.(*corev1.Namespace)
				l.change(w, func() { l.model.setNamespace(ns.Name, ns.Labels) })
			},
			Delete: func(name types.NamespacedName) {
				l.change(w, func() { l.model.deleteNamespace(name.Name) })
			},
		},
		{
			Name: "dataplane/policy EndpointSlice", Example: &discoveryv1.EndpointSlice{},
			ListWatch: lister(slices.List, slices.Watch, discoveryv1.LabelServiceName+"="+dnsService),
			Set: func(obj any) {
				p := dnsOf(obj.(*discoveryv1.EndpointSlice))
				l.change(w, func() { l.model.setPod(p) })
			},
			Delete: func(name types.NamespacedName) {
				l.change(w, func() { l.model.deletePod(dnsName(name)) })
			},
		},
	}
	w.missing = len(kinds)
	var running sync.WaitGroup
	for _, kind := range kinds {
		var once sync.Once
		kind.Listed = func() { once.Do(func() { l.change(w, func() { w.missing-- }) }) }
		running.Go(func() { watch.Run(ctx, kind) })
	}
	go func() {
		running.Wait()
		close(w.done)
	}()
	return w
}

// dnsName is a name that no Pod has.
func dnsName(slice types.NamespacedName) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: "EndpointSlice/" + slice.Name}
}

// dnsOf reads the endpoints of cluster DNS that are no pods as if they were.
func dnsOf(slice *discoveryv1.EndpointSlice) Pod {
	p := Pod{
		Name:   dnsName(types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}),
		Labels: dnsLabels,
	}
	for _, e := range slice.Endpoints {
		if e.TargetRef != nil {
			continue
		}
		for _, text := range e.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil {
				p.Addrs = append(p.Addrs, addr.Unmap())
			}
		}
	}
	for _, port := range slice.Ports {
		if port.Port == nil || *port.Port <= 0 || *port.Port > 65535 {
			continue
		}
		o := Port{Protocol: inet.ProtocolOf(ptr.Deref(port.Protocol, "")), Number: uint16(*port.Port)}
		if port.Name != nil {
			o.Name = *port.Name
		}
		p.Only = append(p.Only, o)
	}
	p.Ports = p.Only
	if len(p.Only) == 0 {
		p.Addrs = nil
	}
	return p
}
