package hostpath

import (
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

const (
	// Provisioner is the name that StorageClasses refer to.
	Provisioner = "skiff.cluster/host-path"
	// ClassName is the StorageClass that every cluster starts with.
	ClassName = "standard"
	// classMade marks the Namespace kube-system when the class was created, so
	// that a user who deletes the class does not get it back.
	classMade = "skiff.cluster/storage-class-created"

	defaultClass = "storageclass.kubernetes.io/is-default-class"
	finalizer    = volumehelpers.PVDeletionProtectionFinalizer
)

// volumeName is the PersistentVolume of a claim, as upstream names it.
func volumeName(claim *corev1.PersistentVolumeClaim) string {
	return "pvc-" + string(claim.UID)
}

// Directory is the name of a volume's directory, or empty if the volume is not
// one of ours.
func Directory(pv *corev1.PersistentVolume) string {
	if pv.Annotations[volumehelpers.AnnDynamicallyProvisioned] != Provisioner {
		return ""
	}
	return pv.Name
}

// asks tells whether the binder wants a volume of ours for the claim.
func asks(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[volumehelpers.AnnStorageProvisioner] == Provisioner &&
		claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// planClaim returns the volume to make for a claim, or why there is none. Both
// are empty when it is too early or too late.
func planClaim(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, volumes string) (pv *corev1.PersistentVolume, refusal string) {
	if !asks(claim) || class == nil || class.Provisioner != Provisioner {
		return nil, ""
	}
	if ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer &&
		claim.Annotations[volumehelpers.AnnSelectedNode] == "" {
		return nil, ""
	}
	if refusal := refuse(claim, class); refusal != "" {
		return nil, refusal
	}
	name := volumeName(claim)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{volumehelpers.AnnDynamicallyProvisioned: Provisioner},
			Finalizers:  []string{finalizer},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{
				Path: filepath.Join(volumes, name),
				// Not DirectoryOrCreate: a directory that vanished took data with
				// it, and its Pod is to say so, not to begin anew.
				Type: ptr.To(corev1.HostPathDirectory),
			}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
		},
	}, ""
}

// refuse says what a directory cannot be.
func refuse(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	switch {
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock:
		return "volumeMode Block is not supported: volumes are directories"
	case claim.Spec.Selector != nil:
		return "claim.spec.selector is not supported: a new volume has no labels"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "claim.spec.dataSource is not supported: volumes start empty"
	case len(class.MountOptions) > 0:
		return fmt.Sprintf("mountOptions of StorageClass %q are not supported: volumes are directories", class.Name)
	case len(class.Parameters) > 0:
		return fmt.Sprintf("parameters of StorageClass %q are not supported: there are none", class.Name)
	}
	return ""
}

// step is what to do with a PersistentVolume.
type step struct {
	// erase removes the directory.
	erase bool
	// release takes our finalizer off.
	release bool
	// remove deletes the object.
	remove bool
}

// planVolume decides about a PersistentVolume that exists. A bound volume is
// left alone; so is a released one that its owner wants to keep.
//
//	Bound ─ claim deleted → Released ─ policy Delete → erased → object deleted
//	                                 └ policy Retain → stays; deleted by its owner, the directory stays
func planVolume(pv *corev1.PersistentVolume) step {
	if Directory(pv) == "" {
		return step{}
	}
	deleted, held := pv.DeletionTimestamp != nil, slices.Contains(pv.Finalizers, finalizer)
	switch {
	case pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return step{release: deleted && held}
	case deleted && !held, pv.Status.Phase == corev1.VolumeBound, pv.Status.Phase == corev1.VolumePending && !deleted:
		return step{}
	case pv.Status.Phase == corev1.VolumeReleased, pv.Status.Phase == corev1.VolumeFailed:
		return step{erase: true, release: held, remove: !deleted}
	case deleted:
		// Never bound, and its owner deletes it.
		return step{erase: true, release: true}
	}
	return step{}
}

// class is the default StorageClass, as kind's users know it.
func class() *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{defaultClass: "true"}},
		Provisioner:       Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
}
