package removedvolumes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
	"k8s.io/utils/ptr"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

func inline(s corev1.VolumeSource) *volume.Spec {
	return volume.NewSpecFromVolume(&corev1.Volume{Name: "v", VolumeSource: s})
}

func persistent(s corev1.PersistentVolumeSource) *volume.Spec {
	return volume.NewSpecFromPersistentVolume(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: s, ClaimRef: &corev1.ObjectReference{Namespace: "claims", Name: "c"}},
	}, false)
}

func TestRefer(t *testing.T) {
	secret := &corev1.LocalObjectReference{Name: "key"}
	tests := map[string]struct {
		driver string
		spec   *volume.Spec
		want   reference
	}{
		"an image":                {"rbd", inline(corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{RBDPool: "kube", RBDImage: "i", FSType: "xfs", ReadOnly: true, SecretRef: secret}}), reference{id: "kube:i", fsType: "xfs", readOnly: true, secret: "key", namespace: "pods"}},
		"an image of no pool":     {"rbd", persistent(corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{RBDImage: "i", SecretRef: &corev1.SecretReference{Name: "key", Namespace: "ceph"}}}), reference{id: "rbd:i", secret: "key", namespace: "ceph"}},
		"a secret of the claim's": {"rbd", persistent(corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{RBDImage: "i", SecretRef: &corev1.SecretReference{Name: "key"}}}), reference{id: "rbd:i", secret: "key", namespace: "claims"}},
		"ScaleIO":                 {"scaleio", inline(corev1.VolumeSource{ScaleIO: &corev1.ScaleIOVolumeSource{System: "s", VolumeName: "v", SecretRef: secret}}), reference{id: "s/v", secret: "key", namespace: "pods"}},
		"ScaleIO, persistent":     {"scaleio", persistent(corev1.PersistentVolumeSource{ScaleIO: &corev1.ScaleIOPersistentVolumeSource{System: "s", VolumeName: "v", FSType: "ext4", ReadOnly: true}}), reference{id: "s/v", fsType: "ext4", readOnly: true, namespace: "claims"}},
		"Photon":                  {"photon-pd", persistent(corev1.PersistentVolumeSource{PhotonPersistentDisk: &corev1.PhotonPersistentDiskVolumeSource{PdID: "p", FSType: "ext4"}}), reference{id: "p", fsType: "ext4", namespace: "claims"}},
		"a dataset's name":        {"flocker", inline(corev1.VolumeSource{Flocker: &corev1.FlockerVolumeSource{DatasetName: "n"}}), reference{id: "n", namespace: "pods"}},
		"a dataset's UUID":        {"flocker", persistent(corev1.PersistentVolumeSource{Flocker: &corev1.FlockerVolumeSource{DatasetUUID: "u"}}), reference{id: "u", namespace: "claims"}},
		"StorageOS, the Pod's":    {"storageos", inline(corev1.VolumeSource{StorageOS: &corev1.StorageOSVolumeSource{VolumeName: "v"}}), reference{id: "pods/v", namespace: "pods"}},
		"StorageOS, the claim's":  {"storageos", persistent(corev1.PersistentVolumeSource{StorageOS: &corev1.StorageOSPersistentVolumeSource{VolumeName: "v", SecretRef: &corev1.ObjectReference{Name: "key", Namespace: "own"}}}), reference{id: "claims/v", secret: "key", namespace: "own"}},
		"StorageOS, its own":      {"storageos", inline(corev1.VolumeSource{StorageOS: &corev1.StorageOSVolumeSource{VolumeName: "v", VolumeNamespace: "n"}}), reference{id: "n/v", namespace: "pods"}},
		"GlusterFS":               {"glusterfs", inline(corev1.VolumeSource{Glusterfs: &corev1.GlusterfsVolumeSource{EndpointsName: "e", Path: "/v"}}), reference{id: "e:v", endpoints: "e", namespace: "pods"}},
		"a directory of one":      {"glusterfs", persistent(corev1.PersistentVolumeSource{Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: "e", Path: "v/a/b", EndpointsNamespace: ptr.To("gluster"), ReadOnly: true}}), reference{id: "e:v", directory: "a/b", endpoints: "e", readOnly: true, namespace: "gluster"}},
		"CephFS":                  {"cephfs", inline(corev1.VolumeSource{CephFS: &corev1.CephFSVolumeSource{Monitors: []string{"b:6789", "a:6789"}, SecretRef: secret}}), reference{id: "a:6789,b:6789", secret: "key", namespace: "pods"}},
		"CephFS with a file":      {"cephfs", persistent(corev1.PersistentVolumeSource{CephFS: &corev1.CephFSPersistentVolumeSource{Monitors: []string{"a"}, Path: "/d", SecretFile: "/f", SecretRef: &corev1.SecretReference{Name: "key"}}}), reference{id: "a", directory: "/d", namespace: "claims"}},
		"Quobyte":                 {"quobyte", persistent(corev1.PersistentVolumeSource{Quobyte: &corev1.QuobyteVolumeSource{Registry: "r:1", Volume: "v"}}), reference{id: "r:1/v", namespace: "claims"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, k := range kinds() {
				got, err := k.refer(tc.spec, "pods")
				switch {
				case k.driver != tc.driver && err == nil:
					t.Errorf("%s takes it too", k.driver)
				case k.driver == tc.driver && err != nil:
					t.Error(err)
				case k.driver == tc.driver && *got != tc.want:
					t.Errorf("%+v, want %+v", *got, tc.want)
				}
			}
		})
	}
}

// What a new volume is called, its object leads to: also for a kubelet that
// finds it mounted.
func TestNewVolumesAreFoundByTheirObjects(t *testing.T) {
	for _, k := range kinds() {
		if k.name == nil {
			continue
		}
		id := k.name("pvc-1", "claims", map[string]string{"pool": "p", "system": "s", "registry": "a:1,b:1"})
		got, err := k.refer(persistent(k.write(id, nil)), "")
		if err != nil || got.id != id || got.directory != "" {
			t.Errorf("%s: %+v, %v, want %s", k.driver, got, err, id)
		}
	}
}

func TestReadOnly(t *testing.T) {
	k := kinds()[0]
	spec := persistent(corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{RBDImage: "i"}})
	spec.ReadOnly = true
	if r, err := k.refer(spec, ""); err != nil || !r.readOnly {
		t.Errorf("a claim that a Pod has read-only: %+v, %v", r, err)
	}
	for want, modes := range map[bool][]corev1.PersistentVolumeAccessMode{true: {readers}, false: {readers, once}} {
		spec.PersistentVolume.Spec.AccessModes = modes
		if got := onlyReaders(spec); got != want {
			t.Errorf("%v is for readers only: %v", modes, got)
		}
	}
}

// Upstream asks plugins by their interfaces what they can.
func TestWhatPluginsCanDo(t *testing.T) {
	if none, err := Plugins(Config{}); err != nil || none != nil {
		t.Errorf("plugins that nobody asked for: %v, %v", none, err)
	}
	plugins, err := Plugins(Config{Cloud: machinev1alpha1.Cloud{RemovedVolumes: true}, StorageDir: t.TempDir()})
	if err != nil || len(plugins) != len(machinev1alpha1.RemovedVolumes()) {
		t.Fatalf("%d plugins for %d storages: %v", len(plugins), len(machinev1alpha1.RemovedVolumes()), err)
	}
	disks := map[string]bool{}
	for _, d := range machinev1alpha1.RemovedVolumes() {
		disks[prefix+d.Name] = !d.Shared
	}
	for _, p := range plugins {
		name := p.GetPluginName()
		_, attaches := p.(volume.AttachableVolumePlugin)
		_, grows := p.(volume.ExpandableVolumePlugin)
		_, growsMounted := p.(volume.NodeExpandableVolumePlugin)
		_, provisions := p.(volume.ProvisionableVolumePlugin)
		if !attaches {
			// What a restarted kubelet finds of a share needs no name.
			found, err := p.ConstructVolumeSpec("v", "/nowhere")
			if err != nil || !p.CanSupport(found.Spec) || found.Spec.Name() != "v" {
				t.Fatalf("%s: reconstructed %+v, %v", name, found.Spec, err)
			}
			if filesystem, err := volumeutil.CheckVolumeModeFilesystem(found.Spec); err != nil || !filesystem {
				t.Errorf("%s: reconstructed as a file system: %v, %v", name, filesystem, err)
			}
		}
		if attaches != disks[name] || grows != (name == "kubernetes.io/rbd" || name == "kubernetes.io/glusterfs") || growsMounted != (grows && attaches) || !provisions {
			t.Errorf("%s: attaches %v, grows %v, mounted %v, provisions %v", name, attaches, grows, growsMounted, provisions)
		}
	}
}
