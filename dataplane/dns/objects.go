package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	namespace     = metav1.NamespaceSystem
	configMapName = "coredns"
	corefileKey   = "Corefile"
	serviceName   = "kube-dns"
	metricsPort   = 9153
)

// ensureConfigMap returns the ConfigMap, made if there is none. What is in an
// existing one is the user's.
func (s *server) ensureConfigMap(ctx context.Context) (*corev1.ConfigMap, error) {
	have, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, configMapName, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return have, err
	}
	return s.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: configMapName, Namespace: namespace},
		Data:       map[string]string{corefileKey: defaultCorefile(s.cfg.ClusterDomain, forwardable(s.cfg.Upstreams))},
	}, metav1.CreateOptions{})
}

// ensureService makes the Service if there is none, and its EndpointSlice
// with this process as the one endpoint.
func (s *server) ensureService(ctx context.Context) error {
	svc, err := s.client.CoreV1().Services(namespace).Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		svc, err = s.client.CoreV1().Services(namespace).Create(ctx, s.service(), metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) { // another replica was quicker
		svc, err = s.client.CoreV1().Services(namespace).Get(ctx, serviceName, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	if want := s.clusterIPs(); !slices.Equal(svc.Spec.ClusterIPs, want) {
		return fmt.Errorf("Service %s/%s has addresses %v, the nodes' pods ask %v", namespace, serviceName, svc.Spec.ClusterIPs, want)
	}
	for _, listen := range s.cfg.Listen {
		if err := s.ensureSlice(ctx, s.slice(svc, listen)); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) ensureSlice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	slices := s.client.DiscoveryV1().EndpointSlices(namespace)
	have, err := slices.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return nil
	}
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s *server) clusterIPs() []string {
	var ips []string
	for _, ip := range s.cfg.ServiceIPs {
		ips = append(ips, ip.String())
	}
	return ips
}

// service is kubeadm's kube-dns without a selector: the endpoint is no pod.
func (s *server) service() *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(s.cfg.ServiceIPs) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	port := intstr.FromInt32(int32(s.cfg.Listen[0].Port()))
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name:      serviceName,
			Namespace: namespace,
			Labels: map[string]string{
				"k8s-app":                       "kube-dns",
				"kubernetes.io/cluster-service": "true",
				"kubernetes.io/name":            "CoreDNS",
			},
			Annotations: map[string]string{
				"prometheus.io/port":   fmt.Sprint(metricsPort),
				"prometheus.io/scrape": "true",
			},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP:      s.cfg.ServiceIPs[0].String(),
			ClusterIPs:     s.clusterIPs(),
			IPFamilyPolicy: &policy,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: port},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: port},
				{Name: "metrics", Protocol: corev1.ProtocolTCP, Port: metricsPort, TargetPort: intstr.FromInt32(metricsPort)},
			},
		},
	}
}

// sliceName is the EndpointSlice's of one replica and family.
func sliceName(replica string, family discoveryv1.AddressType) string {
	name := serviceName
	if replica != "" {
		name += "-" + replica
	}
	if family == discoveryv1.AddressTypeIPv6 {
		name += "-ipv6"
	}
	return name
}

// Withdraw takes a replica out of the Service until it comes back by itself.
func Withdraw(ctx context.Context, client kubernetes.Interface, replica string) error {
	var errs []error
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		err := client.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, sliceName(replica, family), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("withdraw replica %s: %w", replica, err))
		}
	}
	return errors.Join(errs...)
}

// slice is the Service's EndpointSlice of one family.
func (s *server) slice(svc *corev1.Service, listen netip.AddrPort) *discoveryv1.EndpointSlice {
	port := int32(listen.Port())
	yes, no := true, false
	family := discoveryv1.AddressTypeIPv4
	if listen.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	name := sliceName(s.cfg.Replica, family)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      name,
			Namespace: namespace,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: serviceName,
				discoveryv1.LabelManagedBy:   "dns.skiff.cluster",
				"k8s-app":                    "kube-dns",
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID}},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{listen.Addr().String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		}},
		Ports: []discoveryv1.EndpointPort{
			slicePort("dns", corev1.ProtocolUDP, port),
			slicePort("dns-tcp", corev1.ProtocolTCP, port),
			slicePort("metrics", corev1.ProtocolTCP, metricsPort),
		},
	}
}

func slicePort(name string, protocol corev1.Protocol, port int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port}
}

// watchConfigMap sends the ConfigMap whenever it is seen anew.
func (s *server) watchConfigMap(ctx context.Context, changes chan<- *corev1.ConfigMap) {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, configMapName).String()
	maps := s.client.CoreV1().ConfigMaps(namespace)
	cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return maps.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return maps.Watch(ctx, o)
		},
	}, &corev1.ConfigMap{}, &configMapStore{ctx.Done(), changes}, cache.ReflectorOptions{
		Name:    "dataplane/dns ConfigMap",
		Backoff: &wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 15, Cap: 2 * time.Second},
	}).RunWithContext(ctx)
}

// configMapStore hands objects on and keeps none. A deleted ConfigMap changes
// nothing.
type configMapStore struct {
	done    <-chan struct{}
	changes chan<- *corev1.ConfigMap
}

var _ cache.ReflectorStore = (*configMapStore)(nil)

func (s *configMapStore) Add(obj any) error { return s.Update(obj) }
func (s *configMapStore) Delete(any) error  { return nil }
func (s *configMapStore) Resync() error     { return nil }

func (s *configMapStore) Update(obj any) error {
	select {
	case s.changes <- obj.(*corev1.ConfigMap):
	case <-s.done:
	}
	return nil
}

func (s *configMapStore) Replace(objs []any, _ string) error {
	for _, o := range objs {
		_ = s.Update(o)
	}
	return nil
}
