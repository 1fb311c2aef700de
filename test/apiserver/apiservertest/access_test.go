package apiservertest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// upstreamChecks are the parts of /readyz of kube-apiserver v1.37.2, taken
// from upstream's own composition (app.NewConfig, app.CreateServerChain).
const upstreamChecks = `ping log etcd etcd-readiness informer-sync autoregister-completion shutdown
poststarthook/aggregator-reload-proxy-client-cert poststarthook/apiservice-discovery-controller
poststarthook/apiservice-openapi-controller poststarthook/apiservice-openapiv3-controller
poststarthook/apiservice-registration-controller poststarthook/apiservice-status-local-available-controller
poststarthook/apiservice-status-remote-available-controller poststarthook/bootstrap-controller
poststarthook/crd-informer-synced poststarthook/generic-apiserver-start-informers
poststarthook/kube-apiserver-autoregistration poststarthook/peer-endpoint-reconciler-controller
poststarthook/priority-and-fairness-config-consumer poststarthook/priority-and-fairness-config-producer
poststarthook/priority-and-fairness-filter poststarthook/rbac/bootstrap-roles
poststarthook/scheduling/bootstrap-system-priority-classes poststarthook/start-apiextensions-controllers
poststarthook/start-apiextensions-informers poststarthook/start-apiserver-admission-initializer
poststarthook/start-cluster-authentication-info-controller poststarthook/start-kube-aggregator-informers
poststarthook/start-kube-apiserver-identity-lease-controller
poststarthook/start-kube-apiserver-identity-lease-garbage-collector
poststarthook/start-kubernetes-service-cidr-controller poststarthook/start-legacy-token-tracking-controller
poststarthook/start-service-ip-repair-controllers poststarthook/start-system-namespaces-controller
poststarthook/storage-object-count-tracker-hook poststarthook/storage-readiness`

// anonymous is a client without a credential that trusts the cluster's CA.
func anonymous(t *testing.T, srv *apiservertest.Server) (get func(path string) (int, string)) {
	t.Helper()
	config := srv.Config()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return func(path string) (int, string) {
		t.Helper()
		resp, err := (&http.Client{Transport: transport}).Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

func TestAccess(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t, "-also-listen", "127.0.0.1:0")
	client := kubernetes.NewForConfigOrDie(srv.Config())

	t.Run("readyz passes with every check of upstream's and no other", func(t *testing.T) {
		get := anonymous(t, srv)
		code, body := get("/readyz?verbose")
		if code != http.StatusOK {
			t.Fatalf("%d\n%s", code, body)
		}
		want := map[string]bool{}
		for _, name := range strings.Fields(upstreamChecks) {
			want[name] = true
		}
		for _, line := range strings.Split(body, "\n") {
			name, ok := strings.CutPrefix(line, "[+]")
			if !ok {
				continue
			}
			name = strings.TrimSuffix(name, " ok")
			if !want[name] {
				t.Errorf("check %s is not upstream's", name)
			}
			delete(want, name)
		}
		for name := range want {
			t.Errorf("check %s is missing", name)
		}
	})

	t.Run("anonymous requests end at the health paths", func(t *testing.T) {
		get := anonymous(t, srv)
		for path, want := range map[string]int{
			"/livez": 200, "/readyz": 200, "/healthz": 200,
			"/version": 401, "/api": 401, "/apis": 401, "/openapi/v2": 401, "/metrics": 401,
			"/livez/etcd": 401, "/.well-known/openid-configuration": 401,
			"/api/v1/namespaces/kube-public/configmaps/cluster-info": 401,
		} {
			if code, body := get(path); code != want {
				t.Errorf("%s: %d, want %d: %s", path, code, want, body)
			}
		}
	})

	t.Run("version is the release's", func(t *testing.T) {
		info, err := client.Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if info.GitVersion != apiservertest.Version || info.Major != "1" || info.Minor != "37" || info.EmulationMinor != "37" {
			t.Errorf("%+v", info)
		}
	})

	t.Run("RBAC refuses a user without a binding", func(t *testing.T) {
		config := srv.Config()
		config.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"system:authenticated"}}
		_, err := kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("%v, want Forbidden", err)
		}
	})

	t.Run("NodeRestriction keeps a kubelet to its own node", func(t *testing.T) {
		kubelet := kubernetes.NewForConfigOrDie(srv.CertificateConfig("kubelet-client")).CoreV1().Nodes()
		create := func(name string, labels map[string]string) error {
			_, err := kubelet.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
			return err
		}
		if err := create("test-control-plane", nil); err != nil {
			t.Errorf("own node: %v", err)
		}
		if err := create("other", nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is not allowed to modify node") {
			t.Errorf("other node: %v", err)
		}
		own, err := kubelet.Get(t.Context(), "test-control-plane", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		own.Labels = map[string]string{"node-restriction.kubernetes.io/zone": "a"}
		if _, err := kubelet.Update(t.Context(), own, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("restricted label: %v", err)
		}
		secrets := kubernetes.NewForConfigOrDie(srv.CertificateConfig("kubelet-client")).CoreV1().Secrets("kube-system")
		if _, err := secrets.Get(t.Context(), "any", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("secret of no pod of its own: %v", err)
		}
	})

	t.Run("a bootstrap token authenticates", func(t *testing.T) {
		_, err := client.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"},
			Type:       "bootstrap.kubernetes.io/token",
			StringData: map[string]string{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		config := rest.AnonymousClientConfig(srv.Config())
		config.BearerToken = "abcdef.0123456789abcdef"
		eventually(t, func() error {
			_, err := kubernetes.NewForConfigOrDie(config).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
			if apierrors.IsForbidden(err) && strings.Contains(err.Error(), `"system:bootstrap:abcdef"`) {
				return nil
			}
			return err
		})
	})

	t.Run("the second listener serves the same API", func(t *testing.T) {
		addresses := listening(t, srv)
		if len(addresses) != 2 {
			t.Fatalf("listens on %v", addresses)
		}
		for _, address := range addresses {
			config := srv.Config()
			config.Host = "https://" + address
			if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
				t.Errorf("%s: %v", address, err)
			}
		}
	})

	t.Run("unknown certificates are refused", func(t *testing.T) {
		config := srv.CertificateConfig("front-proxy-client")
		if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("front proxy's certificate as a client: %v", err)
		}
	})

	t.Run("files are private", func(t *testing.T) {
		for _, name := range []string{"etcd.sock", "pki/encryption.yaml", "pki/sa.key"} {
			info, err := os.Stat(filepath.Join(srv.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v", name, info.Mode())
			}
		}
	})
}
