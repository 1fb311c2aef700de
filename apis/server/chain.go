package server

import (
	"context"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/filters"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	"k8s.io/kubernetes/pkg/controlplane/reconcilers"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"

	"github.com/skiff-k8s/skiff/apis/metrics"
	"github.com/skiff-k8s/skiff/apis/server/loopback"
	"github.com/skiff-k8s/skiff/apis/storage"
)

// serviceCIDRHook is the name of upstream's hook in controlplane's New.
const serviceCIDRHook = "start-kubernetes-service-cidr-controller"

// chain is upstream's three servers: the aggregator in front, it delegates to
// the built-in groups, they to CRDs.
type chain struct {
	crds       *apiextensionsapiserver.CustomResourceDefinitions
	kube       *controlplane.Instance
	aggregator *aggregatorapiserver.APIAggregator
	// informers are the servers' own: admission, authorizers, authenticators.
	informers informers.SharedInformerFactory
	// enabled says whether a built-in resource is served.
	enabled func(schema.GroupVersionResource) bool

	// endpoints keeps those of the Service default/kubernetes.
	endpoints reconcilers.EndpointReconciler

	// shared has the caches behind every resource.
	shared *storage.Shared

	// life is the informers'; stop ends it.
	life context.Context
	stop context.CancelFunc
}

// newChain is upstream's app.NewConfig and app.CreateServerChain with the
// seams: shared etcd client, in-process loopback, lazy OpenAPI, own hooks. It
// calls started before it needs the storage.
func newChain(opts options.CompletedOptions, lb *loopback.Transport, shared *storage.Shared, started func() error) (*chain, error) {
	base, err := newGeneric(opts, lb, shared)
	if err != nil {
		return nil, err
	}
	kubeConfig, resolver, admission, err := app.CreateKubeAPIServerConfig(opts, base.Config, base.informers, base.storage)
	if err != nil {
		return nil, err
	}
	generic := kubeConfig.ControlPlane.Generic
	crdConfig, err := controlplaneapiserver.CreateAPIExtensionsConfig(*generic, base.informers, admission, opts.CompletedOptions, opts.MasterCount,
		resolver, webhook.NewDefaultAuthenticationInfoResolverWrapper(kubeConfig.ControlPlane.ProxyTransport, generic.EgressSelector, generic.LoopbackClientConfig, generic.TracerProvider))
	if err != nil {
		return nil, err
	}
	crdConfig.GenericConfig.RESTOptionsGetter = shared.RESTOptions(crdConfig.GenericConfig.RESTOptionsGetter)
	crdConfig.ExtraConfig.CRDRESTOptionsGetter = shared.RESTOptions(crdConfig.ExtraConfig.CRDRESTOptionsGetter)

	aggregatorConfig, err := controlplaneapiserver.CreateAggregatorConfig(*generic, opts.CompletedOptions, base.informers, resolver,
		kubeConfig.ControlPlane.ProxyTransport, kubeConfig.ControlPlane.Extra.PeerProxy, admission)
	if err != nil {
		return nil, err
	}
	aggregatorConfig.GenericConfig.RESTOptionsGetter = shared.RESTOptions(aggregatorConfig.GenericConfig.RESTOptionsGetter)

	// The two small servers build their documents at start, from the definitions
	// of all types; theirs alone are enough.
	crdConfig.GenericConfig.OpenAPIConfig = narrowed(generic.OpenAPIConfig, crdopenapi.GetOpenAPIDefinitions)
	aggregatorConfig.GenericConfig.OpenAPIConfig = narrowed(generic.OpenAPIConfig, aggregatoropenapi.GetOpenAPIDefinitions)

	// Hooks of ours take the places of these; the aggregator has a set of its
	// own, so that they can go by upstream's names.
	aggregatorConfig.GenericConfig.DisabledPostStartHooks = sets.NewString()
	generic.DisabledPostStartHooks.Insert(rbacrest.PostStartHookName, schedulingrest.PostStartHookName, serviceCIDRHook)
	generic.SkipOpenAPIInstallation = true

	c := &chain{shared: shared, informers: base.informers, enabled: generic.MergedResourceConfig.ResourceEnabled}
	c.life, c.stop = context.WithCancel(context.Background())
	if err := started(); err != nil {
		return nil, err
	}
	// Complete in upstream's order: each adds to what the next one reads.
	aggregatorCompleted, kubeCompleted, crdCompleted := aggregatorConfig.Complete(), kubeConfig.Complete(), crdConfig.Complete()
	notFound := notfoundhandler.New(kubeCompleted.ControlPlane.Generic.Serializer, filters.NoMuxAndDiscoveryIncompleteKey)
	c.crds, err = crdCompleted.New(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, fmt.Errorf("compose CRD server: %w", err)
	}
	crdsEnabled := crdCompleted.GenericConfig.MergedResourceConfig.ResourceEnabled(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	c.endpoints = kubeCompleted.Extra.EndpointReconcilerConfig.Reconciler
	c.kube, err = kubeCompleted.New(c.crds.GenericAPIServer)
	if err != nil {
		return nil, fmt.Errorf("compose server of built-in groups: %w", err)
	}
	kubelets := opts.KubeletConfig.TLSClientConfig
	if err := metrics.Install(c.kube.ControlPlane.GenericAPIServer, metrics.Config{
		Informers: base.informers,
		TLS:       rest.TLSClientConfig{CAFile: kubelets.CAFile, CertFile: kubelets.CertFile, KeyFile: kubelets.KeyFile},
	}); err != nil {
		return nil, err
	}
	if err := installOpenAPI(c.kube.ControlPlane.GenericAPIServer, generic); err != nil {
		return nil, err
	}
	c.aggregator, err = controlplaneapiserver.CreateAggregatorServer(aggregatorCompleted, c.kube.ControlPlane.GenericAPIServer,
		c.crds.Informers.Apiextensions().V1().CustomResourceDefinitions(), crdsEnabled, priorities())
	if err != nil {
		return nil, fmt.Errorf("compose aggregator: %w", err)
	}
	return c, nil
}

// start starts the informers of all servers, which otherwise their hooks do.
// Many hooks look whether an informer has synced, and if not only again after
// 100 ms; so it pays to be early, but not earlier than the caches of etcd.
func (c *chain) start() {
	if err := c.shared.WaitForCaches(c.life); err != nil {
		return // the server ends, or the hooks go on as upstream's do
	}
	stop := c.life.Done()
	c.informers.Start(stop)
	c.crds.Informers.Start(stop)
	c.aggregator.APIRegistrationInformers.Start(stop)
	c.informers.WaitForCacheSync(stop)
	c.crds.Informers.WaitForCacheSync(stop)
	c.aggregator.APIRegistrationInformers.WaitForCacheSync(stop)
}

// end stops the informers and waits for them.
func (c *chain) end() {
	c.stop()
	c.informers.Shutdown()
	c.crds.Informers.Shutdown()
	c.aggregator.APIRegistrationInformers.Shutdown()
}
