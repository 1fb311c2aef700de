package apiservertest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// namespace is a network namespace with one address, as an EndpointSlice takes
// no loopback address and the host's own addresses are not for tests.
type namespace struct{ ns, home netns.NsHandle }

const namespaceAddress = "192.0.2.1"

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	n := &namespace{}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if n.home, err = netns.Get(); err != nil {
		t.Fatal(err)
	}
	if n.ns, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	defer goHome(n.home)
	t.Cleanup(func() {
		n.ns.Close()
		n.home.Close()
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr(namespaceAddress + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, address); err != nil {
		t.Fatal(err)
	}
	return n
}

// goHome takes the thread back; one that cannot may not run anything else.
func goHome(home netns.NsHandle) {
	if err := netns.Set(home); err != nil {
		panic(err)
	}
}

// do runs f on a thread inside the namespace.
func (n *namespace) do(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := netns.Set(n.ns); err != nil {
		panic(err)
	}
	defer goHome(n.home)
	f()
}

func (n *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	n.do(func() { conn, err = new(net.Dialer).DialContext(ctx, network, address) })
	return conn, err
}

// remote is an aggregated API server: it believes the front proxy's headers
// and answers with what it was told.
type remote struct{ address, ca string }

func newRemote(t *testing.T, n *namespace, frontProxyCA, name string) remote {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	pemCA, err := os.ReadFile(frontProxyCA)
	if err != nil {
		t.Fatal(err)
	}
	clients.AppendCertsFromPEM(pemCA)

	var listener net.Listener
	n.do(func() { listener, err = net.Listen("tcp", namespaceAddress+":0") })
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/remote.skiff.test/v1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{
			TypeMeta:     metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
			GroupVersion: "remote.skiff.test/v1",
			APIResources: []metav1.APIResource{{Name: "harbours", Kind: "Harbour", Verbs: []string{"get", "list"}}},
		})
	})
	mux.HandleFunc("GET /apis/remote.skiff.test/v1/harbours/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "remote.skiff.test/v1", "kind": "Harbour",
			"metadata": map[string]any{"name": r.PathValue("name")},
			"user":     r.Header.Get("X-Remote-User"), "groups": r.Header["X-Remote-Group"],
			"proxy": r.TLS.PeerCertificates[0].Subject.CommonName})
	})
	mux.HandleFunc("POST /apis/remote.skiff.test/v1/validate", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/validate"
		review(w, r)
	})
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: clients}}
	go func() { _ = server.ServeTLS(listener, "", "") }() // until it is closed
	t.Cleanup(func() { server.Close() })
	return remote{listener.Addr().String(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func TestARemoteAggregatedAPI(t *testing.T) {
	n := newNamespace(t)
	var srv *apiservertest.Server
	n.do(func() { srv = apiservertest.Start(t) })
	config := srv.Config()
	config.Dial = n.dial
	client := kubernetes.NewForConfigOrDie(config)
	api := newRemote(t, n, filepath.Join(srv.Dir, "pki", "front-proxy-ca.crt"), "harbour.default.svc")
	_, port, err := net.SplitHostPort(api.address)
	if err != nil {
		t.Fatal(err)
	}

	_, err = client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "harbour"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	portNumber, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "harbour", Labels: map[string]string{discoveryv1.LabelServiceName: "harbour"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{namespaceAddress}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(portNumber))}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dynamicClient := dynamic.NewForConfigOrDie(config)
	services := dynamicClient.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	start := time.Now()
	_, err = services.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": "v1.remote.skiff.test"},
		"spec": map[string]any{"group": "remote.skiff.test", "version": "v1", "groupPriorityMinimum": int64(1000), "versionPriority": int64(10),
			"caBundle": []byte(api.ca), "service": map[string]any{"namespace": "default", "name": "harbour"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		service, err := services.Get(t.Context(), "v1.remote.skiff.test", metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(service.Object, "status", "conditions")
		if len(conditions) == 0 || conditions[0].(map[string]any)["status"] != "True" {
			return errorf("not available: %v", conditions)
		}
		return nil
	})
	t.Logf("available after %v", time.Since(start))

	harbours := dynamicClient.Resource(schema.GroupVersionResource{Group: "remote.skiff.test", Version: "v1", Resource: "harbours"})
	eventually(t, func() error {
		harbour, err := harbours.Get(t.Context(), "kiel", metav1.GetOptions{})
		if err != nil {
			return err
		}
		groups, _, _ := unstructured.NestedStringSlice(harbour.Object, "groups")
		if harbour.Object["user"] != "kubernetes-admin" || harbour.Object["proxy"] != "front-proxy-client" || !strings.Contains(strings.Join(groups, " "), "system:masters") {
			t.Errorf("the remote server heard %v", harbour.Object)
		}
		return nil
	})
	eventually(t, func() error {
		resources, err := client.Discovery().ServerResourcesForGroupVersion("remote.skiff.test/v1")
		if err == nil && len(resources.APIResources) != 1 {
			err = errorf("discovery: %v", resources)
		}
		return err
	})

	t.Run("a webhook at kubernetes.default.svc goes through the aggregator", func(t *testing.T) {
		validating(t, client, "aggregated", admissionregistrationv1.WebhookClientConfig{
			Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "kubernetes", Path: ptr.To("/apis/remote.skiff.test/v1/validate")},
		})
		configMaps := client.CoreV1().ConfigMaps("default")
		eventually(t, func() error {
			_, err := configMaps.Create(t.Context(), labelled("aggregated", map[string]string{"forbidden": "1"}), metav1.CreateOptions{})
			if err == nil || !strings.Contains(err.Error(), "no such key, please") {
				return errorf("not refused: %v", err)
			}
			return nil
		})
		if _, err := configMaps.Create(t.Context(), labelled("aggregated", nil), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})

	t.Run("the service proxy refuses endpoints that are no pods", func(t *testing.T) {
		err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/default/services/https:harbour:https/proxy/").Do(t.Context()).Error()
		if err == nil || !strings.Contains(err.Error(), "no endpoints available") {
			t.Errorf("%v", err)
		}
	})
}
