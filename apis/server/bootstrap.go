package server

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	apiregistrationlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	schedulinghelpers "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/pkg/controlplane/controller/defaultservicecidr"
	"k8s.io/kubernetes/pkg/controlplane/controller/kubernetesservice"
	"k8s.io/kubernetes/pkg/features"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"

	"github.com/skiff-k8s/skiff/apis/metrics"
)

// bootstrap makes the objects without which a cluster does not work, as
// upstream's hooks of the same names do. Upstream waits a second before the
// first attempt and asks for every object; these begin at once and look into
// the server's own informers, which have synced by then. What an informer
// does not know yet is found out by the write.
type bootstrap struct {
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	opts      options.CompletedOptions
	// apiServices are the aggregator's.
	apiServices apiregistrationlisters.APIServiceLister
	register    apiregistrationclient.APIServicesGetter
}

const (
	// writers bounds the parallel writes: they compete for the CPU with all
	// else that starts.
	writers = 4
	// retryEvery and giveUp are for a storage that is not there yet; upstream
	// gives up after the same time.
	retryEvery = 10 * time.Millisecond
	giveUp     = 30 * time.Second
)

// addHooks registers the hooks with the front of the chain. The channel is
// closed when all of them have succeeded.
func addHooks(c *chain, opts options.CompletedOptions) (<-chan struct{}, error) {
	front := c.aggregator.GenericAPIServer
	client, err := kubernetes.NewForConfig(front.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	register, err := apiregistrationclient.NewForConfig(front.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	b := &bootstrap{
		client: client, informers: c.informers, opts: opts, register: register,
		apiServices: c.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister(),
	}
	// An informer asked for before the factory starts is a started informer.
	for _, informer := range []interface {
		Informer() cache.SharedIndexInformer
	}{
		b.informers.Core().V1().Namespaces(), b.informers.Core().V1().Services(),
		b.informers.Networking().V1().ServiceCIDRs(), b.informers.Scheduling().V1().PriorityClasses(),
		b.informers.Rbac().V1().ClusterRoles(), b.informers.Rbac().V1().ClusterRoleBindings(),
		b.informers.Rbac().V1().Roles(), b.informers.Rbac().V1().RoleBindings(),
	} {
		informer.Informer()
	}

	hooks := map[string]func(context.Context) error{rbacrest.PostStartHookName: retried(b.policy)}
	if c.enabled(schedulingv1.SchemeGroupVersion.WithResource("priorityclasses")) {
		hooks[schedulingrest.PostStartHookName] = retried(b.priorityClasses)
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.MultiCIDRServiceAllocator) {
		hooks[serviceCIDRHook] = b.serviceAddresses
	}
	done := make(chan struct{})
	var left atomic.Int32
	left.Store(int32(len(hooks)))
	for name, hook := range hooks {
		err := front.AddPostStartHook(name, func(hookContext genericapiserver.PostStartHookContext) error {
			// The context ends when the server takes no more requests; informers
			// that went on would only be refused.
			context.AfterFunc(hookContext, c.stop)
			if err := hook(hookContext); err != nil {
				return err
			}
			if left.Add(-1) == 0 {
				close(done)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return done, nil
}

// retried repeats what fails, as upstream's hooks do.
func retried(ensure func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var last error
		err := wait.PollUntilContextTimeout(ctx, retryEvery, giveUp, true, func(ctx context.Context) (bool, error) {
			last = ensure(ctx)
			return last == nil, nil
		})
		if err != nil && last != nil && ctx.Err() == nil {
			return last
		}
		return err
	}
}

// priorityClasses are system-node-critical and system-cluster-critical.
func (b *bootstrap) priorityClasses(ctx context.Context) error {
	lister := b.informers.Scheduling().V1().PriorityClasses().Lister()
	for _, class := range schedulinghelpers.SystemPriorityClasses() {
		if _, err := lister.Get(class.Name); err == nil {
			continue
		}
		_, err := b.client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create PriorityClass %s: %w", class.Name, err)
		}
	}
	return nil
}

// metricsAPI registers our metrics API unless there is one. It is not among
// those that upstream's controller registers: that would put ours back at
// every start when a user has installed metrics-server.
func (b *bootstrap) metricsAPI(ctx context.Context) error {
	want := metrics.APIService()
	if _, err := b.apiServices.Get(want.Name); err == nil {
		return nil
	}
	_, err := b.register.APIServices().Create(ctx, want, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create APIService %s: %w", want.Name, err)
	}
	return nil
}

// serviceAddresses makes the default ServiceCIDR, without which no Service
// gets an address, and then leaves it to upstream's controller, whose start
// takes 100 ms longer than the object.
func (b *bootstrap) serviceAddresses(ctx context.Context) error {
	if err := retried(b.serviceCIDR)(ctx); err != nil {
		return err
	}
	keep := defaultservicecidr.NewController(b.opts.PrimaryServiceClusterIPRange, b.opts.SecondaryServiceClusterIPRange, b.client)
	go keep.Start(ctx)
	if err := retried(b.kubernetesService)(ctx); err != nil {
		return err
	}
	return retried(b.allocates)(ctx)
}

// allocates asks for a Service and does not keep it: the allocator of
// addresses hears of the range by a watch of its own, and until then refuses
// every Service with "range is full". No object tells when it has.
func (b *bootstrap) allocates(ctx context.Context) error {
	_, err := b.client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "allocates-"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// serviceCIDRs are one or two ranges.
func serviceCIDRs(opts options.CompletedOptions) []string {
	cidrs := []string{opts.PrimaryServiceClusterIPRange.String()}
	if opts.SecondaryServiceClusterIPRange.IP != nil {
		cidrs = append(cidrs, opts.SecondaryServiceClusterIPRange.String())
	}
	return cidrs
}

func (b *bootstrap) serviceCIDR(ctx context.Context) error {
	if _, err := b.informers.Networking().V1().ServiceCIDRs().Lister().Get(defaultservicecidr.DefaultServiceCIDRName); err == nil {
		return nil
	}
	_, err := b.client.NetworkingV1().ServiceCIDRs().Create(ctx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: defaultservicecidr.DefaultServiceCIDRName},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: serviceCIDRs(b.opts)},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create default ServiceCIDR: %w", err)
	}
	return nil
}

// kubernetesService makes the Service default/kubernetes. Upstream's controller
// would, once the server is ready; but the allocator of addresses may need
// 100 ms more, and after a failure the controller waits for ten seconds. Its
// endpoints are the controller's to write.
func (b *bootstrap) kubernetesService(context.Context) error {
	services := b.informers.Core().V1().Services()
	controller := kubernetesservice.New(kubernetesservice.Config{}, b.client, services)
	want := kubernetesService(b.opts)
	err := controller.CreateOrUpdateMasterServiceIfNeeded(want.Name, b.opts.APIServerServiceIP, want.Spec.Ports, want.Spec.Type, false)
	if err != nil {
		return err
	}
	// The controller looks into this lister, and is confused by a service that
	// exists but is not there yet.
	_, err = services.Lister().Services(want.Namespace).Get(want.Name)
	return err
}

// namespaces are upstream's system namespaces; roles and leases go into them.
func (b *bootstrap) namespaces(ctx context.Context) error {
	lister := b.informers.Core().V1().Namespaces().Lister()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, name := range b.opts.SystemNamespaces {
		if _, err := lister.Get(name); err == nil {
			continue
		}
		group.Go(func() error {
			_, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create Namespace %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
