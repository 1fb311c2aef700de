package cloudvolumes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/apitest"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
)

func TestMain(m *testing.M) {
	os.Exit(apitest.Main(m))
}

const (
	ebs     = "ebs.csi.aws.com"
	zoneKey = "topology.ebs.csi.aws.com/zone"
)

// start runs all controllers with the real storage of one driver, and plays
// the kubelets of two nodes in two zones.
func start(t *testing.T) (api *apitest.API, volumes func() []string) {
	t.Helper()
	ctx := t.Context()
	api = apitest.Server(t)
	root := t.TempDir()
	driver, err := cloudstorage.New(cloudstorage.Config{Root: root, Cloud: machinev1alpha1.Cloud{Drivers: []string{ebs}, AttachLimit: 1}}, ebs)
	if err != nil {
		t.Fatal(err)
	}
	for node, zone := range map[string]string{"one": "us-east-1a", "two": "us-east-1b"} {
		api.Node(t, node, map[string]string{
			zoneKey: zone, corev1.LabelTopologyZone: zone, corev1.LabelTopologyRegion: "us-east-1", corev1.LabelHostname: node,
		})
		info, err := driver.Node(node, func() (string, error) { return zone, nil }).NodeGetInfo(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := api.Client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
				Name: ebs, NodeID: info.GetNodeId(), TopologyKeys: []string{zoneKey},
				Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To(int32(info.GetMaxVolumesPerNode()))},
			}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := api.Client.StorageV1().CSINodes().Delete(context.Background(), node, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
	// After the controllers' end, for the next test.
	t.Cleanup(func() {
		err := api.Client.StorageV1().CSIDrivers().Delete(context.Background(), ebs, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	apitest.RunWith(t, controllers.Config{CloudDrivers: map[string]csi.ControllerServer{ebs: driver}})
	return api, func() []string {
		found, err := filepath.Glob(filepath.Join(root, ebs, "volumes", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
}

func class(t *testing.T, api *apitest.API, name, provisioner string, change func(*storagev1.StorageClass)) {
	t.Helper()
	sc := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, AllowVolumeExpansion: ptr.To(true)}
	if change != nil {
		change(sc)
	}
	if _, err := api.Client.StorageV1().StorageClasses().Create(t.Context(), sc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Client.StorageV1().StorageClasses().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func claim(t *testing.T, api *apitest.API, ns, name, class string, mode corev1.PersistentVolumeAccessMode) {
	t.Helper()
	_, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), newClaim(name, class, mode), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func newClaim(name, class string, mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func bound(t *testing.T, api *apitest.API, ns, name string) (pv *corev1.PersistentVolume) {
	t.Helper()
	t.Log(name, "bound:", apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || c.Status.Phase != corev1.ClaimBound {
			return fmt.Sprint(c, err)
		}
		pv, err = api.Client.CoreV1().PersistentVolumes().Get(t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	}))
	return pv
}

// attach makes a VolumeAttachment, as upstream's controller does, and waits
// for what done says of it.
func attach(t *testing.T, api *apitest.API, name, volume, node string, done func(*storagev1.VolumeAttachment) bool) {
	t.Helper()
	attachments := api.Client.StorageV1().VolumeAttachments()
	if _, err := attachments.Create(t.Context(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: ebs, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		a, err := attachments.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || !done(a) {
			return fmt.Sprint(a, err)
		}
		return ""
	})
}

func isAttached(a *storagev1.VolumeAttachment) bool { return a.Status.Attached }

// refused says which error an attachment has.
func refused(word string) func(*storagev1.VolumeAttachment) bool {
	return func(a *storagev1.VolumeAttachment) bool {
		return !a.Status.Attached && a.Status.AttachError != nil && strings.Contains(a.Status.AttachError.Message, word)
	}
}

// detach deletes a VolumeAttachment and waits until it is gone.
func detach(t *testing.T, api *apitest.API, name string) {
	t.Helper()
	attachments := api.Client.StorageV1().VolumeAttachments()
	if err := attachments.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		if a, err := attachments.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint(a, err)
		}
		return ""
	})
}

// TestLifeOfAVolume follows volumes of the in-tree name and of the driver's.
func TestLifeOfAVolume(t *testing.T) {
	ctx := t.Context()
	api, volumes := start(t)
	ns := api.Namespace(t)
	if _, err := api.Client.StorageV1().CSIDrivers().Get(ctx, ebs, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a CSIDriver that nobody needs: %v", err)
	}
	class(t, api, "in-tree", "kubernetes.io/aws-ebs", nil)
	class(t, api, "by-driver", ebs, func(sc *storagev1.StorageClass) {
		sc.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{
			{Key: zoneKey, Values: []string{"us-east-1b"}}}}}
		sc.MountOptions = []string{"noatime"}
	})
	claim(t, api, ns, "in-tree", "in-tree", corev1.ReadWriteOnce)
	claim(t, api, ns, "by-driver", "by-driver", corev1.ReadWriteOnce)
	claim(t, api, ns, "many", "by-driver", corev1.ReadWriteMany)

	inTree, byDriver := bound(t, api, ns, "in-tree"), bound(t, api, ns, "by-driver")
	if inTree.Spec.AWSElasticBlockStore == nil || inTree.Annotations["pv.kubernetes.io/migrated-to"] != ebs {
		t.Errorf("the volume of an in-tree class: %+v", inTree)
	}
	if s := byDriver.Spec; s.CSI == nil || s.CSI.FSType != "ext4" || len(s.MountOptions) != 1 ||
		s.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "us-east-1b" {
		t.Errorf("the volume of a driver's class: %+v", s)
	}
	if len(volumes()) != 2 {
		t.Errorf("volumes: %v", volumes())
	}
	apitest.Eventually(t, func() string {
		events, err := api.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=many,reason=ProvisioningFailed"})
		if err != nil || len(events.Items) == 0 {
			return fmt.Sprint("no event that refuses a disk for many: ", err)
		}
		return ""
	})

	attach(t, api, "a", byDriver.Name, "two", isAttached)
	attach(t, api, "other-zone", byDriver.Name, "one", refused("attached to two"))
	detach(t, api, "other-zone")

	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Patch(ctx, "by-driver", types.MergePatchType,
		[]byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "by-driver", metav1.GetOptions{})
		if err != nil || c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimNodeResizePending {
			return fmt.Sprint(c, err)
		}
		pv, err := api.Client.CoreV1().PersistentVolumes().Get(ctx, byDriver.Name, metav1.GetOptions{})
		if size := pv.Spec.Capacity[corev1.ResourceStorage]; err != nil || size.String() != "2Gi" {
			return fmt.Sprint(pv, err)
		}
		return ""
	})

	// A volume that is attached outlives its claim until it is detached.
	for _, name := range []string{"by-driver", "in-tree", "many"} {
		if err := api.Client.CoreV1().PersistentVolumeClaims(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	apitest.Eventually(t, func() string {
		if len(volumes()) != 1 {
			return fmt.Sprint(volumes())
		}
		return ""
	})
	detach(t, api, "a")
	noVolumes(t, api, volumes)
}

// noVolumes waits until the last one is gone.
func noVolumes(t *testing.T, api *apitest.API, volumes func() []string) {
	t.Helper()
	apitest.Eventually(t, func() string {
		list, err := api.Client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 || len(volumes()) > 0 {
			return fmt.Sprint(list, err, volumes())
		}
		return ""
	})
}

// TestSomebodyElsesDriver: the volumes of a CSIDriver that somebody else
// installed are not ours.
func TestSomebodyElsesDriver(t *testing.T) {
	ctx := t.Context()
	api, volumes := start(t)
	ns := api.Namespace(t)
	drivers := api.Client.StorageV1().CSIDrivers()
	if _, err := drivers.Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: ebs}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	class(t, api, "theirs", ebs, nil)
	claim(t, api, ns, "theirs", "theirs", corev1.ReadWriteOnce)
	apitest.Eventually(t, func() string {
		c, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Get(ctx, "theirs", metav1.GetOptions{})
		if err != nil || c.Annotations["volume.kubernetes.io/storage-provisioner"] != ebs {
			return fmt.Sprint(c, err)
		}
		return ""
	})
	// Our own provisioner has seen the same event by the time that another
	// volume, asked for later, is there.
	claim(t, api, ns, "ours", "standard", corev1.ReadWriteOnce)
	if _, err := api.Client.CoreV1().PersistentVolumeClaims(ns).Patch(ctx, "ours", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"one"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	bound(t, api, ns, "ours")
	if len(volumes()) > 0 {
		t.Errorf("volumes of somebody else's driver: %v", volumes())
	}
}
