package removedvolumes

import (
	"cmp"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
)

// reference is what an object says of a volume.
type reference struct {
	// id is the volume's; directory is one in it.
	id, directory string
	fsType        string
	readOnly      bool
	// secret and endpoints must exist, in namespace or in the Pod's.
	secret, endpoints, namespace string
}

// kind is what tells one kind of volume from the others.
type kind struct {
	// driver is the storage's name; the plugin's is upstream's prefix and it.
	driver string
	// disk is for one node at a time.
	disk  bool
	modes []corev1.PersistentVolumeAccessMode
	// grows says that it can be expanded.
	grows bool
	// managed says that the kubelet applies fsGroup.
	managed bool
	// read finds out what a source says; nil: it is of another kind.
	// namespace is the Pod's, if there is one.
	read func(s *corev1.VolumeSource, namespace string) *reference
	// name is the id of a new volume, and write the source that names it;
	// without name there is no provisioner.
	name  func(volume, namespace string, parameters map[string]string) string
	write func(id string, parameters map[string]string) corev1.PersistentVolumeSource
}

const (
	once    = corev1.ReadWriteOnce
	readers = corev1.ReadOnlyMany
	many    = corev1.ReadWriteMany

	defaultPool      = "rbd"
	defaultNamespace = corev1.NamespaceDefault
	gatewayKey       = "gateway"
	registryKey      = "registry"
	dynamicEndpoints = "glusterfs-dynamic-"
)

func kinds() []kind {
	plain := func(volume, _ string, _ map[string]string) string { return volume }
	return []kind{
		{
			driver: "rbd", disk: true, grows: true, managed: true, modes: []corev1.PersistentVolumeAccessMode{once, readers},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.RBD
				if v == nil {
					return nil
				}
				return &reference{id: cmp.Or(v.RBDPool, defaultPool) + ":" + v.RBDImage, fsType: v.FSType, readOnly: v.ReadOnly, secret: local(v.SecretRef)}
			},
			name: func(volume, _ string, p map[string]string) string {
				return cmp.Or(p["pool"], defaultPool) + ":" + volume
			},
			write: func(id string, p map[string]string) corev1.PersistentVolumeSource {
				pool, image, _ := strings.Cut(id, ":")
				return corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{
					CephMonitors: strings.Split(p["monitors"], ","), RBDPool: pool, RBDImage: image, RadosUser: p["userId"], FSType: p[volume.VolumeParameterFSType],
				}}
			},
		},
		{
			driver: "scaleio", disk: true, managed: true, modes: []corev1.PersistentVolumeAccessMode{once, readers},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.ScaleIO
				if v == nil {
					return nil
				}
				return &reference{id: v.System + "/" + v.VolumeName, fsType: v.FSType, readOnly: v.ReadOnly, secret: local(v.SecretRef)}
			},
			name: func(volume, _ string, p map[string]string) string { return p["system"] + "/" + volume },
			write: func(id string, p map[string]string) corev1.PersistentVolumeSource {
				system, name, _ := strings.Cut(id, "/")
				return corev1.PersistentVolumeSource{ScaleIO: &corev1.ScaleIOPersistentVolumeSource{
					Gateway: p[gatewayKey], System: system, VolumeName: name, FSType: p[volume.VolumeParameterFSType],
					SecretRef: &corev1.SecretReference{Name: p["secretRef"], Namespace: p["secretNamespace"]},
				}}
			},
		},
		{
			driver: "photon-pd", disk: true, managed: true, modes: []corev1.PersistentVolumeAccessMode{once},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.PhotonPersistentDisk
				if v == nil {
					return nil
				}
				return &reference{id: v.PdID, fsType: v.FSType}
			},
			name: plain,
			write: func(id string, p map[string]string) corev1.PersistentVolumeSource {
				return corev1.PersistentVolumeSource{PhotonPersistentDisk: &corev1.PhotonPersistentDiskVolumeSource{PdID: id, FSType: p[volume.VolumeParameterFSType]}}
			},
		},
		{
			driver: "flocker", disk: true, managed: true, modes: []corev1.PersistentVolumeAccessMode{once},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.Flocker
				if v == nil {
					return nil
				}
				return &reference{id: cmp.Or(v.DatasetUUID, v.DatasetName)}
			},
			name: plain,
			write: func(id string, _ map[string]string) corev1.PersistentVolumeSource {
				return corev1.PersistentVolumeSource{Flocker: &corev1.FlockerVolumeSource{DatasetUUID: id}}
			},
		},
		{
			driver: "storageos", managed: true, modes: []corev1.PersistentVolumeAccessMode{once, readers},
			read: func(s *corev1.VolumeSource, namespace string) *reference {
				v := s.StorageOS
				if v == nil {
					return nil
				}
				return &reference{id: cmp.Or(v.VolumeNamespace, namespace, defaultNamespace) + "/" + v.VolumeName, fsType: v.FSType, readOnly: v.ReadOnly, secret: local(v.SecretRef)}
			},
			name: func(volume, namespace string, _ map[string]string) string { return namespace + "/" + volume },
			write: func(id string, p map[string]string) corev1.PersistentVolumeSource {
				namespace, name, _ := strings.Cut(id, "/")
				return corev1.PersistentVolumeSource{StorageOS: &corev1.StorageOSPersistentVolumeSource{
					VolumeNamespace: namespace, VolumeName: name, FSType: p[volume.VolumeParameterFSType],
				}}
			},
		},
		{
			driver: "glusterfs", grows: true, modes: []corev1.PersistentVolumeAccessMode{once, readers, many},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.Glusterfs
				if v == nil {
					return nil
				}
				name, directory, _ := strings.Cut(strings.TrimPrefix(v.Path, "/"), "/")
				return &reference{id: v.EndpointsName + ":" + name, directory: directory, readOnly: v.ReadOnly, endpoints: v.EndpointsName}
			},
			name: func(volume, _ string, _ map[string]string) string { return dynamicEndpoints + volume + ":" + volume },
			write: func(id string, _ map[string]string) corev1.PersistentVolumeSource {
				endpoints, name, _ := strings.Cut(id, ":")
				return corev1.PersistentVolumeSource{Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: endpoints, Path: name}}
			},
		},
		{
			driver: "cephfs", modes: []corev1.PersistentVolumeAccessMode{once, readers, many},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.CephFS
				if v == nil {
					return nil
				}
				r := &reference{id: strings.Join(slices.Sorted(slices.Values(v.Monitors)), ","), directory: v.Path, readOnly: v.ReadOnly}
				if r.secret = local(v.SecretRef); v.SecretFile != "" {
					r.secret = ""
				}
				return r
			},
		},
		{
			driver: "quobyte", modes: []corev1.PersistentVolumeAccessMode{once, readers, many},
			read: func(s *corev1.VolumeSource, _ string) *reference {
				v := s.Quobyte
				if v == nil {
					return nil
				}
				return &reference{id: v.Registry + "/" + v.Volume, readOnly: v.ReadOnly}
			},
			name: func(volume, _ string, p map[string]string) string { return p[registryKey] + "/" + volume },
			write: func(id string, p map[string]string) corev1.PersistentVolumeSource {
				registry, name := path.Split(id)
				return corev1.PersistentVolumeSource{Quobyte: &corev1.QuobyteVolumeSource{
					Registry: strings.TrimSuffix(registry, "/"), Volume: name, User: p["user"], Group: p["group"], Tenant: p["quobyteTenant"],
				}}
			},
		},
	}
}

func local(ref *corev1.LocalObjectReference) string {
	if ref == nil {
		return ""
	}
	return ref.Name
}
