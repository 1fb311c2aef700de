package controllers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	cacheddiscovery "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/controller-manager/pkg/clientbuilder"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	kubectrlmgrconfig "k8s.io/kubernetes/pkg/controller/apis/config"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	garbagecollectorconfig "k8s.io/kubernetes/pkg/controller/garbagecollector/config"
	"k8s.io/kubernetes/pkg/controller/nodeipam/ipam"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/utils/clock"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers/shared"
)

// upstream builds controllers of kube-controller-manager over shared
// informers, configured as kubeadm does.
type upstream struct {
	context        app.ControllerContext
	metadataClient metadata.Interface
	keyFile        string
	rootCA         []byte
	clock          clock.WithTicker
	volumePlugins  func() ([]volume.VolumePlugin, error)
}

// componentConfig is kube-controller-manager's default configuration with the
// cluster's ranges and keys.
func componentConfig(cfg Config) (kubectrlmgrconfig.KubeControllerManagerConfiguration, error) {
	c, err := options.NewDefaultComponentConfig()
	if err != nil {
		return c, fmt.Errorf("default configuration of upstream's controllers: %w", err)
	}
	// These have their defaults from their flags only.
	(&options.NodeLifecycleControllerOptions{NodeLifecycleControllerConfiguration: &c.NodeLifecycleController}).
		AddFlags(pflag.NewFlagSet("defaults", pflag.ContinueOnError))
	services := cfg.ControlPlane.ServiceSubnets
	c.KubeCloudShared.AllocateNodeCIDRs = true
	c.KubeCloudShared.ClusterCIDR = machinev1alpha1.Join(cfg.ControlPlane.PodSubnets)
	c.KubeCloudShared.CIDRAllocatorType = string(ipam.RangeAllocatorType)
	c.NodeIPAMController.ServiceCIDR = services[0].String()
	if len(services) > 1 {
		c.NodeIPAMController.SecondaryServiceCIDR = services[1].String()
	}
	c.SAController.ServiceAccountKeyFile = filepath.Join(cfg.PKIDir, "sa.key")
	c.SAController.RootCAFile = filepath.Join(cfg.PKIDir, "ca.crt")
	c.CSRSigningController.ClusterSigningCertFile = filepath.Join(cfg.PKIDir, "ca.crt")
	c.CSRSigningController.ClusterSigningKeyFile = filepath.Join(cfg.PKIDir, "ca.key")
	for r := range garbagecollector.DefaultIgnoredResources() {
		c.GarbageCollectorController.GCIgnoredResources = append(c.GarbageCollectorController.GCIgnoredResources,
			garbagecollectorconfig.GroupResource{Group: r.Group, Resource: r.Resource})
	}
	fewerWorkers(&c)
	return c, nil
}

// fewerWorkers suits upstream's numbers of workers to an API server in the
// same process: a request takes a millisecond instead of a round trip through
// a load balancer, and each worker is a goroutine with a stack of its own.
func fewerWorkers(c *kubectrlmgrconfig.KubeControllerManagerConfiguration) {
	// 20 and 50: to have so many requests under way.
	c.GarbageCollectorController.ConcurrentGCSyncs = 5
	c.ResourceClaimController.ConcurrentSyncs = 5
	// Five each, of which a host's cluster keeps one busy.
	for _, workers := range []*int32{
		&c.CronJobController.ConcurrentCronJobSyncs,
		&c.EndpointSliceMirroringController.MirroringConcurrentServiceEndpointSyncs,
		&c.EphemeralVolumeController.ConcurrentEphemeralVolumeSyncs,
		&c.SAController.ConcurrentSATokenSyncs,
		&c.TTLAfterFinishedController.ConcurrentTTLSyncs,
	} {
		*workers = 1
	}
}

// validateSubnets refuses what upstream's node IPAM would refuse at the start.
func validateSubnets(name string, subnets []netip.Prefix) error {
	if len(subnets) == 0 {
		return fmt.Errorf("%s: none given", name)
	}
	for _, s := range subnets {
		if !s.IsValid() {
			return fmt.Errorf("%s: not a range", name)
		}
	}
	return nil
}

// newUpstream makes what upstream's controllers share.
func newUpstream(ctx context.Context, cfg Config, config *rest.Config, factory informers.SharedInformerFactory) (*upstream, error) {
	component, err := componentConfig(cfg)
	if err != nil {
		return nil, err
	}
	rootCA, err := os.ReadFile(component.SAController.RootCAFile)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	builder := clientbuilder.SimpleControllerClientBuilder{ClientConfig: config}
	metadataClient, err := metadata.NewForConfig(rest.AddUserAgent(rest.CopyConfig(config), "metadata-informers"))
	if err != nil {
		return nil, fmt.Errorf("metadata client: %w", err)
	}
	discovery, err := builder.DiscoveryClient("controller-discovery")
	if err != nil {
		return nil, fmt.Errorf("discovery client: %w", err)
	}
	resync := func() time.Duration {
		return time.Duration(float64(component.Generic.MinResyncPeriod.Duration) * (1 + rand.Float64()))
	}
	started := make(chan struct{})
	metadataInformers := metadatainformer.NewSharedInformerFactoryWithOptions(metadataClient, resync(), metadatainformer.WithTransform(shared.StripManagedFields))
	u := &upstream{metadataClient: metadataClient, keyFile: component.SAController.ServiceAccountKeyFile, rootCA: rootCA, clock: cfg.Clock, volumePlugins: cfg.VolumePlugins}
	u.context = app.ControllerContext{
		ClientBuilder:                   builder,
		InformerFactory:                 factory,
		ObjectOrMetadataInformerFactory: informerfactory.NewInformerFactory(factory, metadataInformers),
		ComponentConfig:                 component,
		RESTMapper:                      restmapper.NewDeferredDiscoveryRESTMapper(cacheddiscovery.NewMemCacheClient(discovery)),
		InformersStarted:                started,
		ResyncPeriod:                    resync,
		ControllerManagerMetrics:        controllersmetrics.NewControllerManagerMetrics("kube-controller-manager"),
	}
	u.context.GraphBuilder = garbagecollector.NewDependencyGraphBuilder(ctx, metadataClient, u.context.RESTMapper,
		ignoredResources(component), u.context.ObjectOrMetadataInformerFactory, started)
	registerMetrics()
	return u, nil
}

// registerMetrics panics upstream when called twice in a process.
var registerMetrics = sync.OnceFunc(controllersmetrics.Register)

func ignoredResources(component kubectrlmgrconfig.KubeControllerManagerConfiguration) map[schema.GroupResource]struct{} {
	ignored := map[schema.GroupResource]struct{}{}
	for _, r := range component.GarbageCollectorController.GCIgnoredResources {
		ignored[schema.GroupResource{Group: r.Group, Resource: r.Resource}] = struct{}{}
	}
	return ignored
}

// run runs controllers until ctx ends. All informers have synced by then, so
// that none of them waits for that by polling.
func (u *upstream) run(ctx context.Context, controllers []app.Controller) {
	close(u.context.InformersStarted)
	var all sync.WaitGroup
	for _, c := range controllers {
		all.Go(func() { c.Run(ctx) })
	}
	all.Go(func() { u.refreshDiscovery(ctx) })
	all.Wait()
}

// build makes the named controllers, in the order of the names. Those that a
// feature gate or upstream's defaults turn off are left out. No informer may
// run yet: their constructors register event handlers before they are done.
func (u *upstream) build(ctx context.Context, wanted []string) ([]app.Controller, error) {
	descriptors := app.NewControllerDescriptors()
	var built []app.Controller
	slices.Sort(wanted)
	for _, name := range wanted {
		descriptor := descriptors[name]
		if descriptor == nil {
			return nil, fmt.Errorf("upstream has no controller %q", name)
		}
		if !u.context.IsControllerEnabled(descriptor) {
			continue
		}
		controller, err := u.buildOne(ctx, descriptor)
		if err != nil {
			return nil, fmt.Errorf("controller %s: %w", name, err)
		}
		if controller != nil {
			built = append(built, controller)
		}
	}
	return built, nil
}

func (u *upstream) buildOne(ctx context.Context, descriptor *app.ControllerDescriptor) (app.Controller, error) {
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), descriptor.Name()))
	switch descriptor.Name() {
	case names.ServiceAccountTokenController:
		return u.tokens(ctx)
	case names.PersistentVolumeAttachDetachController:
		return u.attachDetach(ctx)
	case names.PersistentVolumeBinderController:
		return u.volumeBinder(ctx)
	case names.PersistentVolumeExpanderController:
		return u.volumeExpander(ctx)
	case names.ValidatingAdmissionPolicyStatusController:
		return u.policyStatus(descriptor), nil
	case names.DisruptionController:
		return u.disruption(ctx)
	case names.LegacyServiceAccountTokenCleanerController:
		return u.legacyTokens()
	default:
		return descriptor.BuildController(ctx, u.context)
	}
}

// refreshDiscovery lets upstream's controllers see new kinds, as
// kube-controller-manager does every 30 s.
func (u *upstream) refreshDiscovery(ctx context.Context) {
	wait.UntilWithContext(ctx, func(context.Context) { u.context.RESTMapper.Reset() }, 30*time.Second)
}
