package cloudvolumes_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

// attributes makes a VolumeAttributesClass.
func attributes(t *testing.T, api *apitest.API, name, driver string, parameters map[string]string) {
	t.Helper()
	classes := api.Client.StorageV1().VolumeAttributesClasses()
	if _, err := classes.Create(t.Context(), &storagev1.VolumeAttributesClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, DriverName: driver, Parameters: parameters,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := classes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// want changes the class that a claim names.
func want(t *testing.T, api *apitest.API, ns, claim, class string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec": {"volumeAttributesClassName": %q}}`, class)
	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), claim, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func has(c *corev1.PersistentVolumeClaim, condition corev1.PersistentVolumeClaimConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return c.Type == condition })
}

// isModified waits until a claim has a class, and nothing is left of the way to
// it.
func isModified(t *testing.T, api *apitest.API, ns, name, class string) {
	t.Helper()
	apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || ptr.Deref(c.Status.CurrentVolumeAttributesClassName, "") != class || c.Status.ModifyVolumeStatus != nil ||
			has(c, corev1.PersistentVolumeClaimVolumeModifyingVolume) || has(c, corev1.PersistentVolumeClaimVolumeModifyVolumeError) {
			return fmt.Sprint(c, err)
		}
		return ""
	})
	if pv := bound(t, api, ns, name); ptr.Deref(pv.Spec.VolumeAttributesClassName, "") != class {
		t.Errorf("%s: the volume has %v", name, pv.Spec.VolumeAttributesClassName)
	}
}

// isNotModified waits until a claim says why.
func isNotModified(t *testing.T, api *apitest.API, ns, name, class string, how corev1.PersistentVolumeClaimModifyVolumeStatus, why string) {
	t.Helper()
	apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		said := slices.ContainsFunc(c.Status.Conditions, func(condition corev1.PersistentVolumeClaimCondition) bool {
			return condition.Type == corev1.PersistentVolumeClaimVolumeModifyVolumeError && strings.Contains(condition.Message, why)
		})
		if now := c.Status.ModifyVolumeStatus; now == nil || now.Status != how || now.TargetVolumeAttributesClassName != class || said != (why != "") {
			return fmt.Sprint(c.Status)
		}
		return ""
	})
}

func TestVolumeAttributesClasses(t *testing.T) {
	api, volumes := start(t)
	ns := api.Namespace(t)
	class(t, api, "disks", ebs, nil)
	class(t, api, "in-tree", "kubernetes.io/aws-ebs", nil)
	attributes(t, api, "silver", ebs, map[string]string{"iops": "3000"})
	attributes(t, api, "gold", ebs, map[string]string{"type": "gp3", "IOPS": "4000", "throughput": "300", "tagSpecification_1": "a=b"})
	attributes(t, api, "wrong-key", ebs, map[string]string{"speed": "fast"})
	attributes(t, api, "wrong-value", ebs, map[string]string{"iops": "12.5"})
	attributes(t, api, "other", "pd.csi.storage.gke.io", map[string]string{"iops": "3000"})

	claim(t, api, ns, "data", "disks", corev1.ReadWriteOnce)
	isModified(t, api, ns, "data", "")
	want(t, api, ns, "data", "silver")
	isModified(t, api, ns, "data", "silver")

	for name, why := range map[string]string{"wrong-key": "speed", "wrong-value": `"12.5" is not a whole number`, "other": "pd.csi.storage.gke.io"} {
		want(t, api, ns, "data", name)
		isNotModified(t, api, ns, "data", name, corev1.PersistentVolumeClaimModifyVolumeInfeasible, why)
	}
	want(t, api, ns, "data", "gold")
	isModified(t, api, ns, "data", "gold")

	want(t, api, ns, "data", "later")
	isNotModified(t, api, ns, "data", "later", corev1.PersistentVolumeClaimModifyVolumePending, "")
	attributes(t, api, "later", ebs, map[string]string{"iops": "5000"})
	isModified(t, api, ns, "data", "later")

	// From the beginning, also by an in-tree class: then in CSI's form.
	for _, name := range []string{"disks", "in-tree"} {
		request := newClaim(name, name, corev1.ReadWriteOnce)
		request.Spec.VolumeAttributesClassName = ptr.To("silver")
		if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), request, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		isModified(t, api, ns, name, "silver")
	}

	// Taken back before anything came of it.
	claim(t, api, ns, "undone", "disks", corev1.ReadWriteOnce)
	isModified(t, api, ns, "undone", "")
	want(t, api, ns, "undone", "wrong-key")
	isNotModified(t, api, ns, "undone", "wrong-key", corev1.PersistentVolumeClaimModifyVolumeInfeasible, "speed")
	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), "undone", types.JSONPatchType,
		[]byte(`[{"op": "remove", "path": "/spec/volumeAttributesClassName"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "undone", metav1.GetOptions{})
		if err != nil || has(c, corev1.PersistentVolumeClaimVolumeModifyingVolume) {
			return fmt.Sprint(c, err)
		}
		return ""
	})

	if err := api.Client.CoreV1().PersistentVolumeClaims(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	noVolumes(t, api, volumes)
}
