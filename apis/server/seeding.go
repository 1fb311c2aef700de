package server

import (
	"bytes"
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane/controller/defaultservicecidr"
	kubeoptions "k8s.io/kubernetes/pkg/kubeapiserver/options"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apis/server/seed"
)

// writeSeed fills an empty etcd with the recorded objects and with those that
// have the cluster's own addresses in them: the default ServiceCIDR, the
// Service default/kubernetes and its IPAddress. Upstream's controllers look
// for them when they start, and if they are not there only again after 100 ms.
func writeSeed(ctx context.Context, kv clientv3.KV, opts options.CompletedOptions) error {
	address := opts.APIServerServiceIP.String()
	var objects []seed.Object
	for key, object := range map[string]runtime.Object{
		"/servicecidrs/" + defaultservicecidr.DefaultServiceCIDRName: &networkingv1.ServiceCIDR{
			TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
			ObjectMeta: seedMeta(metav1.ObjectMeta{Name: defaultservicecidr.DefaultServiceCIDRName},
				"networking.k8s.io/v1", `{"f:spec":{"f:cidrs":{}}}`),
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: serviceCIDRs(opts)},
		},
		"/services/specs/default/kubernetes": kubernetesService(opts),
		"/ipaddresses/" + address: &networkingv1.IPAddress{
			TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
			ObjectMeta: seedMeta(metav1.ObjectMeta{Name: address, Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family(opts)),
				networkingv1.LabelManagedBy:       "ipallocator.k8s.io",
			}}, "networking.k8s.io/v1", `{"f:metadata":{"f:labels":{".":{},"f:ipaddress.kubernetes.io/ip-family":{},"f:ipaddress.kubernetes.io/managed-by":{}}},"f:spec":{"f:parentRef":{".":{},"f:name":{},"f:namespace":{},"f:resource":{}}}}`),
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "kubernetes"}},
		},
	} {
		var value bytes.Buffer
		if err := protobuf.NewSerializer(legacyscheme.Scheme, legacyscheme.Scheme).Encode(object, &value); err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		objects = append(objects, seed.Object{Key: key, Value: value.Bytes()})
	}
	return seed.Write(ctx, kv, kubeoptions.DefaultEtcdPathPrefix, time.Now(), objects...)
}

// kubernetesService is what upstream's controller makes of these options.
func kubernetesService(opts options.CompletedOptions) *corev1.Service {
	address := opts.APIServerServiceIP.String()
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: seedMeta(metav1.ObjectMeta{
			Name:      "kubernetes",
			Namespace: metav1.NamespaceDefault,
			Labels:    map[string]string{"provider": "kubernetes", "component": "apiserver"},
		}, "v1", `{"f:metadata":{"f:labels":{".":{},"f:component":{},"f:provider":{}}},"f:spec":{"f:clusterIP":{},"f:internalTrafficPolicy":{},"f:ipFamilyPolicy":{},"f:ports":{".":{},"k:{\"port\":443,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:sessionAffinity":{},"f:type":{}}}`),
		Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{
				Name:       "https",
				Protocol:   corev1.ProtocolTCP,
				Port:       443,
				TargetPort: intstr.FromInt32(int32(opts.SecureServing.BindPort)),
			}},
			ClusterIP:             address,
			ClusterIPs:            []string{address},
			Type:                  corev1.ServiceTypeClusterIP,
			SessionAffinity:       corev1.ServiceAffinityNone,
			IPFamilies:            []corev1.IPFamily{family(opts)},
			IPFamilyPolicy:        ptr.To(corev1.IPFamilyPolicySingleStack),
			InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyCluster),
		},
	}
}

func family(opts options.CompletedOptions) corev1.IPFamily {
	if netutils.IsIPv6(opts.APIServerServiceIP) {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// seedMeta completes an object's metadata with placeholders, and fields as
// what the server itself has set.
func seedMeta(meta metav1.ObjectMeta, version, fields string) metav1.ObjectMeta {
	meta.UID = seed.UID
	meta.CreationTimestamp = metav1.NewTime(seed.Time)
	meta.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager:    "kube-apiserver",
		Operation:  metav1.ManagedFieldsOperationUpdate,
		APIVersion: version,
		Time:       &metav1.Time{Time: seed.Time},
		FieldsType: "FieldsV1",
		FieldsV1:   metav1.NewFieldsV1(fields),
	}}
	return meta
}
