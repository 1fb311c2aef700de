package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericfeatures "k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"
	"k8s.io/kubernetes/pkg/kubeapiserver"

	"github.com/skiff-k8s/skiff/apis/metrics"
	"github.com/skiff-k8s/skiff/apis/server/loopback"
	"github.com/skiff-k8s/skiff/apis/storage"
)

// generic is what the three servers of the chain share.
type generic struct {
	*genericapiserver.Config
	informers informers.SharedInformerFactory
	storage   *serverstorage.DefaultStorageFactory
}

// newGeneric is upstream's controlplaneapiserver.BuildGenericConfig, which
// cannot be called because it makes RSA keys and clients on the way: the same
// options in the same order, on the in-process loopback and the shared etcd
// client.
func newGeneric(opts options.CompletedOptions, lb *loopback.Transport, shared *storage.Shared) (*generic, error) {
	codecs := legacyscheme.Codecs
	if utilfeature.DefaultFeatureGate.Enabled(genericfeatures.CBORServingAndStorage) {
		codecs = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	}
	c := genericapiserver.NewConfig(codecs)
	c.MergedResourceConfig = controlplane.DefaultAPIResourceConfigSource()
	if err := opts.GenericServerRunOptions.ApplyTo(c); err != nil {
		return nil, err
	}
	if err := opts.SecureServing.SecureServingOptions.ApplyTo(&c.SecureServing); err != nil {
		return nil, err
	}
	if err := applyLoopback(c, lb); err != nil {
		return nil, err
	}

	client, err := kubernetes.NewForConfig(c.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 10*time.Minute,
		informers.WithTransform(dropManagedFields), informers.WithInformerName(opts.InformerName))
	if err := opts.Features.ApplyTo(c, client, factory); err != nil {
		return nil, err
	}
	if err := opts.APIEnablement.ApplyTo(c, c.MergedResourceConfig, legacyscheme.Scheme); err != nil {
		return nil, err
	}
	if err := opts.EgressSelector.ApplyTo(c); err != nil {
		return nil, err
	}
	if err := opts.Traces.ApplyTo(c.EgressSelector, c); err != nil {
		return nil, err
	}
	applyOpenAPI(c)
	c.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)

	storageFactory, err := applyStorage(c, opts, shared)
	if err != nil {
		return nil, err
	}
	applyQuotas(c, opts, factory)
	ctx := wait.ContextForChannel(c.DrainedNotify())
	if err := opts.Authentication.ApplyTo(ctx, &c.Authentication, c.SecureServing, c.EgressSelector,
		c.OpenAPIConfig, c.OpenAPIV3Config, client, factory, c.APIServerID); err != nil {
		return nil, err
	}
	if err := applyAuthorization(ctx, c, opts, factory); err != nil {
		return nil, err
	}
	if err := opts.Audit.ApplyTo(c); err != nil {
		return nil, err
	}
	c.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	return &generic{Config: c, informers: factory, storage: storageFactory}, nil
}

// applyQuotas lets the quota admission decide by what this server has written.
func applyQuotas(c *genericapiserver.Config, opts options.CompletedOptions, factory informers.SharedInformerFactory) {
	written := newQuotas(factory.Core().V1().ResourceQuotas().Informer().GetStore())
	c.RESTOptionsGetter = written.RESTOptions(c.RESTOptionsGetter)
	// First, so that upstream's metrics count the wait.
	plugins := opts.Admission.GenericAdmission
	plugins.Decorators = append(admission.Decorators{written}, plugins.Decorators...)
}

func dropManagedFields(obj any) (any, error) {
	if object, err := meta.Accessor(obj); err == nil {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

func applyOpenAPI(c *genericapiserver.Config) {
	definitions := utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(legacyscheme.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme, metrics.Scheme)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
}

// applyStorage wants opts.Etcd to skip upstream's health endpoints, which open
// a connection each, and installs the same checks on the shared client.
func applyStorage(c *genericapiserver.Config, opts options.CompletedOptions, shared *storage.Shared) (*serverstorage.DefaultStorageFactory, error) {
	opts.Etcd.StorageConfig.Transport.TracerProvider = c.TracerProvider
	factoryConfig := kubeapiserver.NewStorageFactoryConfigEffectiveVersion(c.EffectiveVersion)
	factoryConfig.APIResourceConfig = c.MergedResourceConfig
	factoryConfig.DefaultResourceEncoding.SetEffectiveVersion(c.EffectiveVersion)
	factory, err := factoryConfig.Complete(opts.Etcd).New()
	if err != nil {
		return nil, err
	}
	factory.StorageConfig.StorageObjectCountTracker = c.StorageObjectCountTracker
	if err := opts.Etcd.ApplyWithStorageFactoryTo(factory, c); err != nil {
		return nil, err
	}
	c.RESTOptionsGetter = shared.RESTOptions(c.RESTOptionsGetter)

	config := opts.Etcd.StorageConfig
	health := shared.Check(config.Prefix, config.HealthcheckTimeout)
	ready := shared.Check(config.Prefix, config.ReadycheckTimeout)
	c.AddHealthChecks(healthz.NamedGroupedCheck("etcd", "etcd", func(*http.Request) error { return health() }))
	c.AddReadyzChecks(healthz.NamedGroupedCheck("etcd-readiness", "etcd-readiness", func(*http.Request) error { return ready() }))
	return factory, nil
}

func applyAuthorization(ctx context.Context, c *genericapiserver.Config, opts options.CompletedOptions, factory informers.SharedInformerFactory) error {
	authorizer, resolver, _, err := controlplaneapiserver.BuildAuthorizer(ctx, opts.CompletedOptions, c.EgressSelector, c.APIServerID, factory)
	if err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	c.Authorization.Authorizer, c.RuleResolver = authorizer, resolver
	return nil
}
