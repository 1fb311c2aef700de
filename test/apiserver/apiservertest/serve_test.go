package apiservertest_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

func TestEveryServedGroupVersionHasItsAPIService(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t, "-runtime-config", "api/all=true")
	config := srv.Config()
	client := kubernetes.NewForConfigOrDie(config)
	body, err := client.RESTClient().Get().AbsPath("/").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var root struct{ Paths []string }
	if err := json.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	services, err := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{
		Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, service := range services.Items {
		have[service.GetName()] = true
		conditions, _, _ := unstructured.NestedSlice(service.Object, "status", "conditions")
		if len(conditions) == 0 || conditions[0].(map[string]any)["status"] != "True" {
			t.Errorf("APIService %s: %v", service.GetName(), conditions)
		}
	}
	served := 0
	for _, path := range root.Paths {
		part := strings.Split(path, "/")
		if len(part) != 4 || part[1] != "apis" || part[2] == "apiregistration.k8s.io" {
			continue
		}
		served++
		if name := part[3] + "." + part[2]; !have[name] {
			t.Errorf("%s is served but has no place in the table of priorities", path)
		}
	}
	if served < 30 {
		t.Errorf("only %d group versions: %v", served, root.Paths)
	}
}

func TestRuntimeConfigAndFeatureGates(t *testing.T) {
	t.Parallel()
	t.Run("a group version that is off is not served", func(t *testing.T) {
		t.Parallel()
		srv := apiservertest.Start(t, "-runtime-config", "autoscaling/v1=false", "-feature-gates", "WatchList=false")
		client := kubernetes.NewForConfigOrDie(srv.Config())
		if _, err := client.Discovery().ServerResourcesForGroupVersion("autoscaling/v1"); !apierrors.IsNotFound(err) {
			t.Errorf("autoscaling/v1: %v", err)
		}
		if _, err := client.Discovery().ServerResourcesForGroupVersion("autoscaling/v2"); err != nil {
			t.Errorf("autoscaling/v2: %v", err)
		}
		metrics, err := client.RESTClient().Get().AbsPath("/metrics").Do(t.Context()).Raw()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(metrics), `kubernetes_feature_enabled{name="WatchList",stage="BETA"} 0`) {
			t.Error("feature gate WatchList is not off")
		}
	})
	t.Run("an unknown feature gate is named", func(t *testing.T) {
		t.Parallel()
		if out := apiservertest.Try(t, "-feature-gates", "NoSuchGate=true"); !strings.Contains(out, "featureGates: unrecognized feature gate: NoSuchGate") {
			t.Error(out)
		}
	})
	t.Run("an unknown group is named", func(t *testing.T) {
		t.Parallel()
		if out := apiservertest.Try(t, "-runtime-config", "nosuch.group/v1=true"); !strings.Contains(out, "nosuch.group") {
			t.Error(out)
		}
	})
}

// TestOpenAPI holds the documents that are built on demand to the contract of
// upstream's: hash, redirect, immutable copies, CRDs merged in.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	config := srv.Config()
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	noRedirect := *httpClient
	noRedirect.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	get := func(path string, into any, headers ...string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := noRedirect.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if into != nil && resp.StatusCode == http.StatusOK {
			if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		return resp
	}
	type root struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		}
	}
	var v3 root
	eventually(t, func() error {
		get("/openapi/v3", &v3)
		if len(v3.Paths) < 45 {
			return errorf("%d documents", len(v3.Paths))
		}
		return nil
	})

	apps := v3.Paths["apis/apps/v1"].ServerRelativeURL
	var doc struct {
		Paths      map[string]any
		Components struct{ Schemas map[string]any }
	}
	resp := get(apps, &doc)
	if doc.Paths["/apis/apps/v1/namespaces/{namespace}/deployments"] == nil || doc.Components.Schemas["io.k8s.api.apps.v1.Deployment"] == nil {
		t.Errorf("%s: %d %d paths", apps, resp.StatusCode, len(doc.Paths))
	}
	if cache := resp.Header.Get("Cache-Control"); cache != "public, immutable" {
		t.Errorf("with its hash: Cache-Control %q", cache)
	}
	if again := get(apps, nil, "If-None-Match", resp.Header.Get("Etag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("with its etag: %d", again.StatusCode)
	}
	if other := get("/openapi/v3/apis/apps/v1?hash=ABC", nil); other.StatusCode != http.StatusMovedPermanently || other.Header.Get("Location") != apps {
		t.Errorf("with another hash: %d %s", other.StatusCode, other.Header.Get("Location"))
	}
	if plain := get("/openapi/v3/apis/apps/v1", &doc); plain.StatusCode != http.StatusOK || strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("without hash: %d %s", plain.StatusCode, plain.Header.Get("Cache-Control"))
	}
	if proto := get(apps, nil, "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); proto.StatusCode != http.StatusOK || !strings.Contains(proto.Header.Get("Content-Type"), "protobuf") {
		t.Errorf("protobuf: %d %s", proto.StatusCode, proto.Header.Get("Content-Type"))
	}
	for path, document := range v3.Paths {
		if resp := get(document.ServerRelativeURL, &doc); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	// The aggregator takes a document of several servers from any of them.
	for range 50 {
		var again root
		get("/openapi/v3", &again)
		for path, document := range v3.Paths {
			if now := again.Paths[path]; now != document {
				t.Fatalf("%s: %s in one list, %s in another", path, document.ServerRelativeURL, now.ServerRelativeURL)
			}
		}
	}

	createCRD(t, config)
	eventually(t, func() error {
		var now root
		get("/openapi/v3", &now)
		if now.Paths["apis/test.skiff.cluster/v1"].ServerRelativeURL == "" {
			return errorf("no document of the CRD in v3")
		}
		return nil
	})
	eventually(t, func() error {
		var v2 struct {
			Paths       map[string]any
			Definitions map[string]any
		}
		get("/openapi/v2", &v2)
		if len(v2.Paths) < 400 || v2.Definitions["io.k8s.api.core.v1.Pod"] == nil {
			t.Fatalf("v2: %d paths, %d definitions", len(v2.Paths), len(v2.Definitions))
		}
		if v2.Definitions["cluster.skiff.test.v1.Boat"] == nil {
			return errorf("no definition of the CRD in v2")
		}
		return nil
	})
}

func createCRD(t *testing.T, config *rest.Config) dynamic.NamespaceableResourceInterface {
	t.Helper()
	client := dynamic.NewForConfigOrDie(config)
	crd := map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "boats.test.skiff.cluster"},
		"spec": map[string]any{
			"group": "test.skiff.cluster", "scope": "Cluster",
			"names": map[string]any{"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
				"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
					"spec": map[string]any{"type": "object", "properties": map[string]any{
						"length": map[string]any{"type": "integer", "minimum": int64(1), "default": int64(3)}}}}}}}},
		},
	}
	_, err := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).
		Create(t.Context(), &unstructured.Unstructured{Object: crd}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: "test.skiff.cluster", Version: "v1", Resource: "boats"})
}

func TestCustomResources(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	boats := createCRD(t, srv.Config())
	boat := func(length any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "test.skiff.cluster/v1", "kind": "Boat",
			"metadata": map[string]any{"name": "skiff"}, "spec": map[string]any{"length": length}}}
	}
	eventually(t, func() error {
		_, err := boats.List(t.Context(), metav1.ListOptions{})
		return err
	})
	if _, err := boats.Create(t.Context(), boat(int64(0)), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("invalid boat: %v", err)
	}
	defaulted := boat(int64(1))
	unstructured.RemoveNestedField(defaulted.Object, "spec", "length")
	made, err := boats.Create(t.Context(), defaulted, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if length, _, _ := unstructured.NestedInt64(made.Object, "spec", "length"); length != 3 {
		t.Errorf("defaulted length %d", length)
	}
	applied, err := boats.Apply(t.Context(), "skiff", boat(int64(5)), metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if length, _, _ := unstructured.NestedInt64(applied.Object, "spec", "length"); length != 5 {
		t.Errorf("applied length %d", length)
	}
	srv.Kill()
	srv.Restart(t)
	boats = dynamic.NewForConfigOrDie(srv.Config()).Resource(schema.GroupVersionResource{Group: "test.skiff.cluster", Version: "v1", Resource: "boats"})
	if _, err := boats.Get(t.Context(), "skiff", metav1.GetOptions{}); err != nil {
		t.Errorf("ready, but the CRD is not served: %v", err)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	client := kubernetes.NewForConfigOrDie(srv.Config())
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "sa",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(3600))}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(srv.Config())
	config.BearerToken = token.Status.Token
	self, err := kubernetes.NewForConfigOrDie(config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "system:serviceaccount:default:sa" {
		t.Errorf("%v, %v", self, err)
	}
	discovery, err := client.RESTClient().Get().AbsPath("/.well-known/openid-configuration").Do(t.Context()).Raw()
	if err != nil || !strings.Contains(string(discovery), `"issuer":"https://kubernetes.default.svc.cluster.local"`) {
		t.Errorf("%s, %v", discovery, err)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  resources:\n  - resources: [configmaps]\n- level: None\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := apiservertest.Start(t, "-audit-policy-file", policy)
	client := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1().ConfigMaps("default")
	if _, err := client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "audited"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		log, err := os.ReadFile(filepath.Join(srv.Dir, "audit.log"))
		if err != nil {
			return err
		}
		if !strings.Contains(string(log), `"name":"audited"`) || !strings.Contains(string(log), `"username":"kubernetes-admin"`) {
			return errorf("audit log: %s", log)
		}
		return nil
	})
}

func TestTheSchedulerBindsAPod(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t, "-scheduler")
	client := kubernetes.NewForConfigOrDie(srv.Config()).CoreV1()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	node.Status.Allocatable = corev1.ResourceList{"cpu": quantity("4"), "memory": quantity("4Gi"), "pods": quantity("10")}
	node.Status.Capacity = node.Status.Allocatable
	made, err := client.Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Upstream's TaintNodesByCondition adds the taint, the node controller
	// takes it away; there is none here.
	made.Spec.Taints = nil
	if _, err := client.Nodes().Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := client.Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		pod, err := client.Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err == nil && pod.Spec.NodeName != "n" {
			err = errorf("not bound: %v", pod.Status.Conditions)
		}
		return err
	})
	t.Logf("bound after %v", time.Since(start))
	eventually(t, func() error {
		events, err := client.Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Scheduled"})
		if err == nil && len(events.Items) != 1 {
			err = errorf("%d events", len(events.Items))
		}
		return err
	})
}
