package metrics

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/metrics-server/pkg/api"
	kubelet "sigs.k8s.io/metrics-server/pkg/scraper/client"
	"sigs.k8s.io/metrics-server/pkg/scraper/client/resource"
)

// kubeletPort is upstream's, for nodes that do not say theirs.
const kubeletPort = 10250

// GroupVersion is what is served.
var GroupVersion = metricsv1beta1.SchemeGroupVersion

// Scheme holds the group's types.
var Scheme = api.Scheme

// Config of the API.
type Config struct {
	// Informers are the server's; they know Nodes and Pods.
	Informers informers.SharedInformerFactory
	// TLS is the server's own client certificate for kubelets, and whom it
	// believes.
	TLS rest.TLSClientConfig
}

// Install adds the group to a server.
func Install(server *genericapiserver.GenericAPIServer, cfg Config) error {
	core := cfg.Informers.Core().V1()
	source := NewSource(core.Nodes().Lister(), func() (kubelet.KubeletMetricsGetter, error) {
		return resource.NewForConfig(&kubelet.KubeletClientConfig{
			Client:              rest.Config{TLSClientConfig: cfg.TLS, Timeout: patience},
			AddressTypePriority: []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName},
			Scheme:              "https", DefaultPort: kubeletPort, UseNodeStatusPort: true,
		})
	})
	if err := api.Install(source, podMetadata{core.Pods().Lister()}, core.Nodes().Lister(), server, nil); err != nil {
		return fmt.Errorf("install %s: %w", GroupVersion, err)
	}
	// Last in discovery: "pods" and "nodes" mean the core group's.
	server.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(GroupVersion), priority, priority)
	return nil
}

// priority is that of metrics-server's APIService.
const priority = 100

// APIService says that this server has the group itself.
func APIService() *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: GroupVersion.Version + "." + GroupVersion.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: GroupVersion.Group, Version: GroupVersion.Version,
			GroupPriorityMinimum: priority, VersionPriority: priority,
		},
	}
}

// ReaderRole lets those who may view a namespace see what its Pods use, as the
// role of metrics-server does.
func ReaderRole() *rbacv1.ClusterRole {
	const aggregate = "rbac.authorization.k8s.io/aggregate-to-"
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{
			Name:   "system:aggregated-metrics-reader",
			Labels: map[string]string{aggregate + "view": "true", aggregate + "edit": "true", aggregate + "admin": "true"},
		},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{GroupVersion.Group}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"},
		}},
	}
}
