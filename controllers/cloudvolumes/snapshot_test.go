package cloudvolumes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/apitest"
)

// TestSnapshots: a snapshot is made of a volume, and a volume of it.
func TestSnapshots(t *testing.T) {
	ctx := t.Context()
	api, volumes := start(t)
	ns := api.Namespace(t)
	class(t, api, "disks", ebs, nil)
	claim(t, api, ns, "source", "disks", corev1.ReadWriteOnce)
	bound(t, api, ns, "source")
	file := filepath.Join(volumes()[0], "data", "file")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}

	client, err := snapshots.NewForConfig(api.Config)
	if err != nil {
		t.Fatal(err)
	}
	// The kinds come with the driver.
	apitest.Eventually(t, func() string {
		_, err := client.SnapshotV1().VolumeSnapshotClasses().Create(ctx, &snapshotv1.VolumeSnapshotClass{
			ObjectMeta: metav1.ObjectMeta{Name: "snaps"}, Driver: ebs, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
		}, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() {
		if err := client.SnapshotV1().VolumeSnapshotClasses().Delete(context.Background(), "snaps", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	take := func(name string) {
		t.Helper()
		if _, err := client.SnapshotV1().VolumeSnapshots(ns).Create(ctx, &snapshotv1.VolumeSnapshot{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: snapshotv1.VolumeSnapshotSpec{
				VolumeSnapshotClassName: ptr.To("snaps"), Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: ptr.To("source")},
			},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	restore := func(name, snapshot, size string) {
		t.Helper()
		_, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: ptr.To("disks"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:  corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
				DataSource: &corev1.TypedLocalObjectReference{APIGroup: ptr.To(snapshotv1.GroupName), Kind: "VolumeSnapshot", Name: snapshot},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	take("snap")
	t.Log("ready:", apitest.Eventually(t, func() string {
		s, err := client.SnapshotV1().VolumeSnapshots(ns).Get(ctx, "snap", metav1.GetOptions{})
		if err != nil || s.Status == nil || !ptr.Deref(s.Status.ReadyToUse, false) || s.Status.RestoreSize.String() != "1Gi" {
			return fmt.Sprint(s, err)
		}
		return ""
	}))
	if err := os.WriteFile(file, []byte("after"), 0o600); err != nil {
		t.Fatal(err)
	}
	restore("restored", "snap", "1Gi")
	bound(t, api, ns, "restored")
	var contents []string
	for _, dir := range volumes() {
		data, err := os.ReadFile(filepath.Join(dir, "data", "file"))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, string(data))
	}
	if got := fmt.Sprint(contents); got != "[before after]" && got != "[after before]" {
		t.Errorf("the volume and the one of its snapshot: %s", got)
	}
	restore("small", "snap", "1Mi")
	apitest.Eventually(t, func() string {
		events, err := api.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=small,reason=ProvisioningFailed"})
		if err != nil || len(events.Items) == 0 {
			return fmt.Sprint("no event that refuses a volume smaller than its snapshot: ", err)
		}
		return ""
	})

	left := func() []string {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(volumes()[0])), "snapshots", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if len(left()) != 1 {
		t.Errorf("snapshots: %v", left())
	}
	forget := func(name string) {
		t.Helper()
		if err := api.Client.CoreV1().PersistentVolumeClaims(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// A snapshot that a claim waits for stays.
	forget("small")
	if err := client.SnapshotV1().VolumeSnapshots(ns).Delete(ctx, "snap", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		list, err := client.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 || len(left()) > 0 {
			return fmt.Sprint(list, err, left())
		}
		return ""
	})
	forget("source")
	forget("restored")
	apitest.Eventually(t, func() string {
		list, err := api.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			return fmt.Sprint(list, err)
		}
		return ""
	})
}
