package removedvolumes

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/utils/ptr"
)

// refer finds out which volume a spec names. namespace is the Pod's, if there
// is one.
func (k *kind) refer(spec *volume.Spec, namespace string) (*reference, error) {
	var r *reference
	switch {
	case spec.Volume != nil:
		r = k.read(&spec.Volume.VolumeSource, namespace)
	case spec.PersistentVolume != nil:
		source, from := asInline(&spec.PersistentVolume.Spec.PersistentVolumeSource)
		if claim := spec.PersistentVolume.Spec.ClaimRef; claim != nil {
			namespace = claim.Namespace
		}
		if r = k.read(source, namespace); r != nil {
			r.namespace, r.readOnly = from, r.readOnly || spec.ReadOnly
		}
	}
	if r == nil {
		return nil, fmt.Errorf("volume %s is not of kind %s", spec.Name(), k.driver)
	}
	if r.namespace == "" {
		r.namespace = namespace
	}
	return r, nil
}

// asInline is the source of a PersistentVolume as that of a Pod, and the
// namespace of what it refers to; empty: the claim's.
func asInline(s *corev1.PersistentVolumeSource) (inline *corev1.VolumeSource, namespace string) {
	inline = &corev1.VolumeSource{Flocker: s.Flocker, Quobyte: s.Quobyte, PhotonPersistentDisk: s.PhotonPersistentDisk}
	secret := func(ref *corev1.SecretReference) *corev1.LocalObjectReference {
		if ref == nil {
			return nil
		}
		namespace = ref.Namespace
		return &corev1.LocalObjectReference{Name: ref.Name}
	}
	switch {
	case s.RBD != nil:
		v := s.RBD
		inline.RBD = &corev1.RBDVolumeSource{RBDPool: v.RBDPool, RBDImage: v.RBDImage, FSType: v.FSType, ReadOnly: v.ReadOnly, SecretRef: secret(v.SecretRef)}
	case s.ScaleIO != nil:
		v := s.ScaleIO
		inline.ScaleIO = &corev1.ScaleIOVolumeSource{System: v.System, VolumeName: v.VolumeName, FSType: v.FSType, ReadOnly: v.ReadOnly, SecretRef: secret(v.SecretRef)}
	case s.StorageOS != nil:
		v := s.StorageOS
		inline.StorageOS = &corev1.StorageOSVolumeSource{VolumeNamespace: v.VolumeNamespace, VolumeName: v.VolumeName, FSType: v.FSType, ReadOnly: v.ReadOnly}
		if v.SecretRef != nil {
			inline.StorageOS.SecretRef = secret(&corev1.SecretReference{Name: v.SecretRef.Name, Namespace: v.SecretRef.Namespace})
		}
	case s.Glusterfs != nil:
		v := s.Glusterfs
		inline.Glusterfs = &corev1.GlusterfsVolumeSource{EndpointsName: v.EndpointsName, Path: v.Path, ReadOnly: v.ReadOnly}
		namespace = ptr.Deref(v.EndpointsNamespace, "")
	case s.CephFS != nil:
		v := s.CephFS
		inline.CephFS = &corev1.CephFSVolumeSource{Monitors: v.Monitors, Path: v.Path, SecretFile: v.SecretFile, ReadOnly: v.ReadOnly, SecretRef: secret(v.SecretRef)}
	}
	return inline, namespace
}
