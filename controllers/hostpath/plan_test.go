package hostpath

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "c", UID: "uid", ResourceVersion: "7",
			Annotations: map[string]string{
				volumehelpers.AnnStorageProvisioner: Provisioner,
				volumehelpers.AnnSelectedNode:       "node",
			},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestPlanClaim(t *testing.T) {
	type result string
	const (
		volume  result = "volume"
		nothing result = "nothing"
	)
	for name, c := range map[string]struct {
		claim func(*corev1.PersistentVolumeClaim)
		class func(*storagev1.StorageClass)
		want  result // or a part of the refusal
	}{
		"asked for, with a node": {want: volume},
		"before the scheduler has chosen a node": {
			claim: func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volumehelpers.AnnSelectedNode) }, want: nothing},
		"without a node, bound immediately": {
			claim: func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volumehelpers.AnnSelectedNode) },
			class: func(c *storagev1.StorageClass) {
				c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
			}, want: volume},
		"another's": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Annotations[volumehelpers.AnnStorageProvisioner] = "other"
			}, want: nothing},
		"a class that is another's by now": {
			class: func(c *storagev1.StorageClass) { c.Provisioner = "other" }, want: nothing},
		"already bound": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }, want: nothing},
		"being deleted": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) }, want: nothing},
		"a block device": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }, want: "volumeMode Block"},
		"with a selector": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }, want: "selector"},
		"a copy": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.DataSource = &corev1.TypedLocalObjectReference{} }, want: "dataSource"},
		"with mount options": {
			class: func(c *storagev1.StorageClass) { c.MountOptions = []string{"ro"} }, want: "mountOptions"},
		"with parameters": {
			class: func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"type": "ssd"} }, want: "parameters"},
	} {
		t.Run(name, func(t *testing.T) {
			class := class()
			if c.class != nil {
				c.class(class)
			}
			pv, refusal := planClaim(claim(c.claim), class, "/volumes")
			switch {
			case c.want == volume && (pv == nil || refusal != ""):
				t.Errorf("no volume, %q", refusal)
			case c.want == nothing && (pv != nil || refusal != ""):
				t.Errorf("volume %v, %q", pv, refusal)
			case c.want != volume && c.want != nothing && (pv != nil || !strings.Contains(refusal, string(c.want))):
				t.Errorf("volume %v, %q", pv, refusal)
			}
			if pv == nil {
				return
			}
			if source := pv.Spec.HostPath; source.Path != "/volumes/pvc-uid" || *source.Type != corev1.HostPathDirectory {
				t.Errorf("path %s of type %s", source.Path, *source.Type)
			}
			if Directory(pv) != "pvc-uid" {
				t.Errorf("directory %q", Directory(pv))
			}
		})
	}
}

func TestPlanVolume(t *testing.T) {
	now := ptr.To(metav1.Now())
	for name, c := range map[string]struct {
		phase   corev1.PersistentVolumePhase
		policy  corev1.PersistentVolumeReclaimPolicy
		deleted *metav1.Time
		free    bool // without our finalizer
		other   bool // another's
		want    step
	}{
		"just made":                             {phase: corev1.VolumePending, policy: "Delete", want: step{}},
		"waits for its claim":                   {phase: corev1.VolumeAvailable, policy: "Delete", want: step{}},
		"bound":                                 {phase: corev1.VolumeBound, policy: "Delete", want: step{}},
		"bound, and its owner deletes it":       {phase: corev1.VolumeBound, policy: "Delete", deleted: now, want: step{}},
		"released":                              {phase: corev1.VolumeReleased, policy: "Delete", want: step{erase: true, release: true, remove: true}},
		"released, deleted already":             {phase: corev1.VolumeReleased, policy: "Delete", deleted: now, want: step{erase: true, release: true}},
		"released, to be kept":                  {phase: corev1.VolumeReleased, policy: "Retain", want: step{}},
		"kept, and its owner deletes it":        {phase: corev1.VolumeReleased, policy: "Retain", deleted: now, want: step{release: true}},
		"erased, waits for others' finalizers":  {phase: corev1.VolumeReleased, policy: "Delete", deleted: now, free: true, want: step{}},
		"never bound, and its owner deletes it": {phase: corev1.VolumeAvailable, policy: "Delete", deleted: now, want: step{erase: true, release: true}},
		"another's":                             {phase: corev1.VolumeReleased, policy: "Delete", other: true, want: step{}},
	} {
		t.Run(name, func(t *testing.T) {
			pv, _ := planClaim(claim(nil), class(), "/volumes")
			pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy, pv.DeletionTimestamp = c.phase, c.policy, c.deleted
			if c.free {
				pv.Finalizers = nil
			}
			if c.other {
				pv.Annotations[volumehelpers.AnnDynamicallyProvisioned] = "other"
			}
			if got := planVolume(pv); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
