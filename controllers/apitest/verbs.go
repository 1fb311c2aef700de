package apitest

import (
	"context"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Patcher is a typed client's part.
type Patcher[T any] interface {
	Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, options metav1.PatchOptions, subresources ...string) (T, error)
}

// Patch changes an object.
func Patch[T any](t testing.TB, objects Patcher[T], name string, kind types.PatchType, patch string) {
	t.Helper()
	if _, err := objects.Patch(t.Context(), name, kind, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// SetImage gives the template of an object the image of its container c.
func SetImage[T any](t testing.TB, objects Patcher[T], name, image string) {
	t.Helper()
	Patch(t, objects, name, types.StrategicMergePatchType, fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image))
}

// Deleter is a typed client's part.
type Deleter[T any] interface {
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
}

// Delete returns when the object is gone.
func Delete[T any](t testing.TB, objects Deleter[T], name string, policy metav1.DeletionPropagation) {
	t.Helper()
	if err := objects.Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
	Eventually(t, func() string {
		if _, err := objects.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint("still there: ", err)
		}
		return ""
	})
}
