package shared

import (
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// resyncPeriod is upstream's: every object once in twelve hours.
const resyncPeriod = 12 * time.Hour

// NewInformers is the factory of all informers of built-in kinds.
func NewInformers(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, resyncPeriod, informers.WithTransform(StripManagedFields))
}

// StripManagedFields is the informers' transform, as upstream's: nobody here
// reads managed fields.
func StripManagedFields(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

// NewManager is a controller-runtime manager over the factory, without any
// listener.
func NewManager(cfg *rest.Config, logger logr.Logger, factory informers.SharedInformerFactory) (manager.Manager, error) {
	return ctrl.NewManager(cfg, manager.Options{
		Scheme: scheme.Scheme,
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			return builtinMapper(), nil
		},
		NewCache: NewCache(factory),
		// Objects of the cache are shared: whoever changes one copies it first.
		Cache:                   cache.Options{DefaultUnsafeDisableDeepCopy: ptr.To(true)},
		Logger:                  logger,
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress:  "0",
		PprofBindAddress:        "0",
		GracefulShutdownTimeout: ptr.To(5 * time.Second),
		Controller: config.Controller{
			MaxConcurrentReconciles: 5,
			// Names are upstream's, and unique by the table.
			SkipNameValidation: ptr.To(true),
		},
	})
}

// builtinMapper knows the built-in kinds without asking the API server: what
// is an object, in its stable version. The rest of the scheme is a megabyte.
func builtinMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(scheme.Scheme.PrioritizedVersionsAllGroups())
	root := map[string]bool{
		"Namespace": true, "Node": true, "PersistentVolume": true, "StorageClass": true,
		"CSIDriver": true, "CSINode": true, "VolumeAttachment": true,
	}
	for gvk, kind := range scheme.Scheme.AllKnownTypes() {
		if _, isObject := reflect.New(kind).Interface().(client.Object); !isObject || strings.ContainsAny(gvk.Version, "ab_") {
			continue
		}
		scope := meta.RESTScopeNamespace
		if root[gvk.Kind] {
			scope = meta.RESTScopeRoot
		}
		mapper.Add(gvk, scope)
	}
	return mapper
}
