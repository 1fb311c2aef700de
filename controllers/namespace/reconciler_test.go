package namespace_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

const node = "namespace-test"

// kubelet ends Pods of the node 50 ms after they are deleted.
func kubelet(t *testing.T, api *apitest.API) {
	ctx := t.Context()
	watch, err := api.Client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { watch.Stop(); <-done })
	go func() {
		defer close(done)
		for event := range watch.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && pod.DeletionTimestamp != nil && event.Type == "MODIFIED" {
				time.Sleep(50 * time.Millisecond)
				_ = api.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
			}
		}
	}()
}

func gone(t *testing.T, api *apitest.API, name string) func() string {
	return func() string {
		ns, err := api.Client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint(ns.Status, err)
	}
}

func TestNamespaceWithContentIsGone(t *testing.T) {
	api := apitest.Run(t)
	kubelet(t, api)
	for name, fill := range map[string]func(ctx context.Context, ns string) error{
		"empty": func(context.Context, string) error { return nil },
		"a running Pod with a grace period": func(ctx context.Context, ns string) error {
			spec := apitest.PodSpec()
			spec.NodeName, spec.TerminationGracePeriodSeconds = node, ptr.To[int64](30)
			_, err := api.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, metav1.CreateOptions{})
			return err
		},
		"a Pod that waits for a node": func(ctx context.Context, ns string) error {
			_, err := api.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: apitest.PodSpec()}, metav1.CreateOptions{})
			return err
		},
		"a Deployment of ten": func(ctx context.Context, ns string) error {
			_, err := api.Client.AppsV1().Deployments(ns).Create(ctx, apitest.Deployment("d", 10), metav1.CreateOptions{})
			apitest.Eventually(t, api.Pods(t, ns, 10))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			ns := api.Namespace(t)
			if err := fill(ctx, ns); err != nil {
				t.Fatal(err)
			}
			if err := api.Client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			took := apitest.Eventually(t, gone(t, api, ns))
			t.Log("gone:", took)
			if took > 3*time.Second {
				t.Errorf("took %v, upstream's wait is back", took)
			}
		})
	}
}

// TestFinalizerHoldsNamespace: content with a finalizer stays, the conditions
// say so, and the namespace goes when the finalizer does.
func TestFinalizerHoldsNamespace(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	ns := api.Namespace(t)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}
	if _, err := api.Client.CoreV1().ConfigMaps(ns).Create(ctx, held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := api.Client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		n, err := api.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				return ""
			}
		}
		return fmt.Sprint(n.Status.Conditions)
	})
	if _, err := api.Client.CoreV1().ConfigMaps(ns).Patch(ctx, "held", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("gone:", apitest.Eventually(t, gone(t, api, ns)))
}
