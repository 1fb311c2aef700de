package apiservertest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// usageKubelet answers /metrics/resource for a node that uses one core and has
// the Pod default/p that uses a quarter of one. It wants the API server's
// certificate, and has one of the cluster's.
func usageKubelet(t *testing.T, srv *apiservertest.Server) *net.TCPAddr {
	t.Helper()
	start := time.Now().Add(-time.Hour)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics/resource" {
			http.NotFound(w, r)
			return
		}
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != "kube-apiserver-kubelet-client" {
			t.Errorf("asked by %s", name)
		}
		now := time.Now()
		used, labels := now.Sub(start).Seconds(), `{container="c",namespace="default",pod="p"}`
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %f %d\n", used, now.UnixMilli())
		fmt.Fprintf(w, "node_memory_working_set_bytes 1e+09 %d\n", now.UnixMilli())
		fmt.Fprintf(w, "container_cpu_usage_seconds_total%s %f %d\n", labels, used/4, now.UnixMilli())
		fmt.Fprintf(w, "container_memory_working_set_bytes%s 1e+06 %d\n", labels, now.UnixMilli())
		fmt.Fprintf(w, "container_start_time_seconds%s %d\n", labels, start.Unix())
	}))
	ca, err := tls.LoadX509KeyPair(filepath.Join(srv.Dir, "pki", "ca.crt"), filepath.Join(srv.Dir, "pki", "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.Leaf)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: clients,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr)
}

// TestMetricsAPI: usage of a node and a Pod, for those who may see it; in
// discovery behind the core group; and a user's own metrics-server stays.
func TestMetricsAPI(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	ctx := t.Context()
	address := usageKubelet(t, srv)
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.IP.String()}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(address.Port)
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "p"}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	usage := metricsclient.NewForConfigOrDie(srv.Config()).MetricsV1beta1()
	eventually(t, func() error { // the server's informers may not have the Node yet
		nodes, err := usage.NodeMetricses().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(nodes.Items) != 1 || nodes.Items[0].Window.Duration <= 0 {
			return errorf("%v", nodes.Items)
		}
		if cpu := nodes.Items[0].Usage.Cpu().AsApproximateFloat64(); cpu < 0.99 || cpu > 1.01 {
			return errorf("%f cores", cpu)
		}
		return nil
	})
	pods, err := usage.PodMetricses("default").List(ctx, metav1.ListOptions{LabelSelector: "app=p"})
	if err != nil || len(pods.Items) != 1 || len(pods.Items[0].Containers) != 1 {
		t.Fatalf("%v, %v", pods, err)
	}
	if cpu := pods.Items[0].Containers[0].Usage.Cpu().AsApproximateFloat64(); cpu < 0.245 || cpu > 0.255 {
		t.Errorf("%f cores", cpu)
	}
	if pods, err = usage.PodMetricses("").List(ctx, metav1.ListOptions{LabelSelector: "app!=p"}); err != nil || len(pods.Items) != 0 {
		t.Errorf("%v, %v", pods, err)
	}
	if _, err := usage.PodMetricses("default").Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("of no Pod: %v", err)
	}

	groups, err := restmapper.GetAPIGroupResources(client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	if kind, err := restmapper.NewDiscoveryRESTMapper(groups).KindFor(schema.GroupVersionResource{Resource: "pods"}); err != nil || kind.Group != "" {
		t.Errorf("pods are %v, %v", kind, err)
	}
	if last := groups[len(groups)-1].Group; last.Name != "metrics.k8s.io" || last.PreferredVersion.Version != "v1beta1" {
		t.Errorf("last in discovery: %v", last)
	}
	if doc, err := client.RESTClient().Get().AbsPath("/openapi/v3/apis/metrics.k8s.io/v1beta1").Do(ctx).Raw(); err != nil || len(doc) < 1000 {
		t.Errorf("OpenAPI: %s, %v", doc, err)
	}
	metricsAccess(t, srv, client)
	metricsServerStays(t, srv)
}

// metricsAccess: nobody sees usage who may not.
func metricsAccess(t *testing.T, srv *apiservertest.Server, client kubernetes.Interface) {
	t.Helper()
	config := rest.CopyConfig(srv.Config())
	config.Impersonate.UserName = "viewer"
	usage := metricsclient.NewForConfigOrDie(config).MetricsV1beta1()
	if _, err := usage.NodeMetricses().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a role: %v", err)
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:aggregated-metrics-reader"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "viewer"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := usage.NodeMetricses().List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// metricsServerStays: an APIService of a user's is not put back at a restart.
func metricsServerStays(t *testing.T, srv *apiservertest.Server) {
	t.Helper()
	resource := schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	const name = "v1beta1.metrics.k8s.io"
	get := func() (service map[string]any, available string) {
		t.Helper()
		object, err := dynamic.NewForConfigOrDie(srv.Config()).Resource(resource).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		service, _, _ = unstructured.NestedMap(object.Object, "spec", "service")
		conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
		if len(conditions) > 0 {
			available, _ = conditions[0].(map[string]any)["status"].(string)
		}
		return service, available
	}
	if service, available := get(); service != nil || available != "True" {
		t.Errorf("ours has service %v, available %q", service, available)
	}
	if _, err := dynamic.NewForConfigOrDie(srv.Config()).Resource(resource).Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"spec":{"service":{"name":"metrics-server","namespace":"kube-system"},"insecureSkipTLSVerify":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	srv.Restart(t)
	if service, _ := get(); service["name"] != "metrics-server" {
		t.Errorf("the user's has service %v", service)
	}
}
