package cloudvolumes

import (
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// reserved is the prefix of parameters that are for the sidecars, not for the
// driver.
const (
	reserved      = "csi.storage.k8s.io/"
	fsTypeKey     = reserved + "fstype"
	oldFSTypeKey  = "fstype"
	finalizer     = volumehelpers.PVDeletionProtectionFinalizer
	claimKind     = "PersistentVolumeClaim"
	cloudProvider = "skiff"
)

// volumeName is the PersistentVolume of a claim, as upstream names it.
func volumeName(claim *corev1.PersistentVolumeClaim) string {
	return "pvc-" + string(claim.UID)
}

// driverParameters are the parameters of a class for the driver, and the file
// system that they ask for.
func driverParameters(class *storagev1.StorageClass, fsType string) (map[string]string, string) {
	parameters := map[string]string{}
	for key, value := range class.Parameters {
		switch {
		case strings.EqualFold(key, fsTypeKey), strings.EqualFold(key, oldFSTypeKey):
			fsType = value
		case !strings.HasPrefix(key, reserved):
			parameters[key] = value
		}
	}
	return parameters, fsType
}

// volumeRequest is what the driver is asked for a claim.
func volumeRequest(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, spec machinev1alpha1.CloudDriver, zones []string, source *csi.VolumeContentSource) *csi.CreateVolumeRequest {
	parameters, fsType := driverParameters(class, spec.FSType)
	request := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	req := &csi.CreateVolumeRequest{
		Name: volumeName(claim), Parameters: parameters,
		CapacityRange:             &csi.CapacityRange{RequiredBytes: request.Value()},
		AccessibilityRequirements: requirement(spec.ZoneKey, zones),
		VolumeContentSource:       source,
	}
	for _, mode := range claim.Spec.AccessModes {
		req.VolumeCapabilities = append(req.VolumeCapabilities,
			capability(claim.Spec.VolumeMode, []corev1.PersistentVolumeAccessMode{mode}, fsType, class.MountOptions))
	}
	return req
}

// capability is a way to use a volume in CSI's words.
func capability(mode *corev1.PersistentVolumeMode, access []corev1.PersistentVolumeAccessMode, fsType string, options []string) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: accessMode(access)}}
	if ptr.Deref(mode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		return c
	}
	c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: options}}
	return c
}

// accessMode is the widest of the modes.
func accessMode(modes []corev1.PersistentVolumeAccessMode) csi.VolumeCapability_AccessMode_Mode {
	switch {
	case slices.Contains(modes, corev1.ReadWriteMany):
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case slices.Contains(modes, corev1.ReadWriteOnce):
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	case slices.Contains(modes, corev1.ReadWriteOncePod):
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case slices.Contains(modes, corev1.ReadOnlyMany):
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	}
	return csi.VolumeCapability_AccessMode_UNKNOWN
}

// attributesClass is the one that a claim wants, if any.
func attributesClass(claim *corev1.PersistentVolumeClaim) *string {
	if ptr.Deref(claim.Spec.VolumeAttributesClassName, "") == "" {
		return nil
	}
	return claim.Spec.VolumeAttributesClassName
}

// newVolume is the PersistentVolume of what the driver created.
func newVolume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, spec machinev1alpha1.CloudDriver, made *csi.Volume) *corev1.PersistentVolume {
	_, fsType := driverParameters(class, spec.FSType)
	if ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock {
		fsType = ""
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        volumeName(claim),
			Annotations: map[string]string{volumehelpers.AnnDynamicallyProvisioned: class.Provisioner},
			Finalizers:  []string{finalizer},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(made.GetCapacityBytes(), resource.BinarySI)},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeAttributesClassName:     attributesClass(claim),
			VolumeMode:                    claim.Spec.VolumeMode,
			MountOptions:                  class.MountOptions,
			NodeAffinity:                  affinity(made.GetAccessibleTopology()),
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: spec.Name, VolumeHandle: made.GetVolumeId(), FSType: fsType, VolumeAttributes: made.GetVolumeContext(),
			}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: claimKind, Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
		},
	}
}
