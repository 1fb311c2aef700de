package apiservertest_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/transport"

	"github.com/skiff-k8s/skiff/test/apiserver/apiservertest"
)

// refusals counts the requests that were told to come back later.
type refusals struct {
	http.RoundTripper
	count *atomic.Int64
}

func (r refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		r.count.Add(1)
	}
	return resp, err
}

func TestDefinitionsComeAndGo(t *testing.T) {
	t.Parallel()
	srv := apiservertest.Start(t)
	config := srv.Config()
	var refused atomic.Int64
	config.WrapTransport = transport.Wrappers(config.WrapTransport, func(rt http.RoundTripper) http.RoundTripper { return refusals{rt, &refused} })
	objects, definitions := dynamic.NewForConfigOrDie(config), apiextensions.NewForConfigOrDie(config).ApiextensionsV1().CustomResourceDefinitions()
	for i := range 20 {
		crd := definition(fmt.Sprintf("thing%d", i))
		if _, err := definitions.Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			now, err := definitions.Get(t.Context(), crd.Name, metav1.GetOptions{})
			if err == nil && !apihelpers.IsCRDConditionTrue(now, apiextensionsv1.Established) {
				err = fmt.Errorf("%s is not established", crd.Name)
			}
			return err
		})
		kind := objects.Resource(schema.GroupVersionResource{Group: crd.Spec.Group, Version: "v1", Resource: crd.Spec.Names.Plural})
		eventually(t, func() error {
			_, err := kind.List(t.Context(), metav1.ListOptions{LabelSelector: "a=b"})
			return err
		})
		if err := definitions.Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		// Asked again and again by something else than the finalizer, which
		// must not forget it.
		eventually(t, func() error {
			now, err := definitions.Get(t.Context(), crd.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("%s is still there: %+v", crd.Name, now.Status.Conditions)
			}
			return err
		})
	}
	if n := refused.Load(); n > 0 {
		t.Errorf("%d requests were told to come back later", n)
	}
}

func definition(name string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: name + "s.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: name + "s", Singular: name, Kind: "K" + name, ListKind: "K" + name + "List"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
		},
	}
}
