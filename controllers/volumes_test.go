package controllers_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/hostnode/removedvolumes"
)

// TestVolumePlugins: upstream's controllers make, expand and delete volumes
// by plugins that are not upstream's.
func TestVolumePlugins(t *testing.T) {
	ctx := t.Context()
	api := apitest.Server(t)
	dir := t.TempDir()
	apitest.RunWith(t, controllers.Config{VolumePlugins: func() ([]volume.VolumePlugin, error) {
		return removedvolumes.Plugins(removedvolumes.Config{Cloud: machinev1alpha1.Cloud{RemovedVolumes: true}, StorageDir: dir})
	}})
	ns := api.Namespace(t)
	claims, volumes := api.Client.CoreV1().PersistentVolumeClaims(ns), api.Client.CoreV1().PersistentVolumes()
	parameters := map[string]map[string]string{
		"rbd":       {"monitors": "192.0.2.1:6789", "pool": "kube"},
		"scaleio":   {"gateway": "https://192.0.2.1/api", "system": "s", "secretRef": "key"},
		"photon-pd": nil,
		"flocker":   nil,
		"storageos": {"pool": "default"},
		"glusterfs": {"resturl": "http://192.0.2.1:8080"},
		"quobyte":   {"registry": "192.0.2.1:7861"},
	}
	names := map[string]string{}
	for kind := range parameters {
		if _, err := api.Client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: kind}, Provisioner: "kubernetes.io/" + kind, Parameters: parameters[kind], AllowVolumeExpansion: ptr.To(true),
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := api.Client.StorageV1().StorageClasses().Delete(context.Background(), kind, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
		if _, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: kind},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &kind, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for kind := range parameters {
		apitest.Eventually(t, func() string {
			c, err := claims.Get(ctx, kind, metav1.GetOptions{})
			if err != nil || c.Status.Phase != corev1.ClaimBound {
				return fmt.Sprint(c, err)
			}
			names[kind] = c.Spec.VolumeName
			return ""
		})
	}
	rbd, err := volumes.Get(ctx, names["rbd"], metav1.GetOptions{})
	if err != nil || rbd.Spec.RBD == nil || rbd.Spec.RBD.RBDPool != "kube" || rbd.Spec.RBD.CephMonitors[0] != "192.0.2.1:6789" {
		t.Errorf("an image: %+v, %v", rbd, err)
	}
	gluster, err := volumes.Get(ctx, names["glusterfs"], metav1.GetOptions{})
	if err != nil || gluster.Spec.Glusterfs == nil {
		t.Fatalf("a share: %+v, %v", gluster, err)
	}
	if _, err := api.Client.CoreV1().Endpoints(ns).Get(ctx, gluster.Spec.Glusterfs.EndpointsName, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}

	for _, kind := range []string{"rbd", "glusterfs"} {
		if _, err := claims.Patch(ctx, kind, types.MergePatchType, []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		apitest.Eventually(t, func() string {
			v, err := volumes.Get(ctx, names[kind], metav1.GetOptions{})
			if size := v.Spec.Capacity[corev1.ResourceStorage]; err != nil || size.String() != "2Gi" {
				return fmt.Sprint(v, err)
			}
			return ""
		})
	}
	for kind := range parameters {
		if err := claims.Delete(ctx, kind, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		apitest.Eventually(t, func() string {
			v, err := volumes.Get(ctx, names[kind], metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return fmt.Sprint(v, err)
			}
			return ""
		})
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "volumes", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("volumes that outlive their claims: %v, %v", left, err)
	}
}
