package hostpath_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/controllers/hostpath"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

func newClaim(class *string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: class, AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
	}
}

// bound waits until the claim has its volume.
func bound(t *testing.T, api *apitest.API, ns string) *corev1.PersistentVolume {
	t.Helper()
	var pv *corev1.PersistentVolume
	t.Log("bound:", apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if c.Status.Phase != corev1.ClaimBound {
			return fmt.Sprint(c.Annotations, c.Status)
		}
		pv, err = api.Client.CoreV1().PersistentVolumes().Get(t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	}))
	return pv
}

// TestStandardClass follows a volume of the default class: made when a node
// is chosen, writable by anybody, removed with its claim. A Pod that left a
// link to a file outside takes no file with it.
func TestStandardClass(t *testing.T) {
	ctx := t.Context()
	api := apitest.Server(t)
	volumes, outside := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// What a crash leaves goes; what has data stays.
	for _, d := range []string{"pvc-crashed", "pvc-unknown/data"} {
		if err := os.MkdirAll(filepath.Join(volumes, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	apitest.RunWith(t, controllers.Config{VolumesDir: volumes})
	ns := api.Namespace(t)
	if _, err := os.Stat(filepath.Join(volumes, "pvc-unknown/data")); err != nil {
		t.Error(err)
	}
	apitest.Eventually(t, func() string {
		class, err := api.Client.StorageV1().StorageClasses().Get(ctx, hostpath.ClassName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" {
			return fmt.Sprint("not the default: ", class)
		}
		return ""
	})
	apitest.Eventually(t, func() string {
		if _, err := os.Stat(filepath.Join(volumes, "pvc-crashed")); err == nil {
			return "pvc-crashed is there"
		}
		return ""
	})

	claims := api.Client.CoreV1().PersistentVolumeClaims(ns)
	c, err := claims.Create(ctx, newClaim(nil, corev1.ReadWriteOnce), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if class := ptr.Deref(c.Spec.StorageClassName, ""); class != hostpath.ClassName {
		t.Fatalf("class %q", class)
	}
	// The part of the scheduler.
	if _, err := api.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Client.CoreV1().Nodes().Delete(context.Background(), "node", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := claims.Patch(ctx, "data", types.MergePatchType, []byte(`{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"node"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	pv := bound(t, api, ns)
	path := pv.Spec.HostPath.Path
	if filepath.Dir(path) != volumes {
		t.Errorf("volume lies in %s", path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if err := claims.Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("gone:", apitest.Eventually(t, gone(t, api, pv.Name, path)))
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func gone(t *testing.T, api *apitest.API, name, path string) func() string {
	return func() string {
		pv, err := api.Client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Sprint(pv, err)
		}
		if _, err := os.Stat(path); err == nil {
			return path + " is there"
		}
		return ""
	}
}

// immediate makes a StorageClass whose volumes wait for no Pod, and returns its
// name.
func immediate(t *testing.T, api *apitest.API, policy corev1.PersistentVolumeReclaimPolicy) string {
	t.Helper()
	class, err := api.Client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "immediate-"}, Provisioner: hostpath.Provisioner,
		ReclaimPolicy: &policy, VolumeBindingMode: ptr.To(storagev1.VolumeBindingImmediate),
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return class.Name
}

// TestOwnClasses: immediate binding, any access mode, and Retain keeps the
// directory through the deletion of claim and volume.
func TestOwnClasses(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	class := immediate(t, api, corev1.PersistentVolumeReclaimRetain)
	ns := api.Namespace(t)
	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Create(ctx, newClaim(&class, corev1.ReadWriteMany, corev1.ReadWriteOnce), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pv := bound(t, api, ns)
	if err := api.Client.CoreV1().PersistentVolumeClaims(ns).Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		pv, err := api.Client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pv.Status.Phase != corev1.VolumeReleased {
			return string(pv.Status.Phase)
		}
		return ""
	})
	if err := api.Client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, gone(t, api, pv.Name, filepath.Join(pv.Spec.HostPath.Path, "no such")))
	if _, err := os.Stat(pv.Spec.HostPath.Path); err != nil {
		t.Error(err)
	}
}

// TestRefusal: what a directory cannot be is said in an event.
func TestRefusal(t *testing.T) {
	ctx := t.Context()
	api := apitest.Run(t)
	class := immediate(t, api, corev1.PersistentVolumeReclaimDelete)
	ns := api.Namespace(t)
	block := newClaim(&class, corev1.ReadWriteOnce)
	block.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Create(ctx, block, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		events, err := api.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, e := range events.Items {
			if e.Reason == "ProvisioningFailed" && e.Source.Component == hostpath.Provisioner {
				t.Log(e.Message)
				return ""
			}
		}
		return fmt.Sprint(len(events.Items), " other events")
	})
}
