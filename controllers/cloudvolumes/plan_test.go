package cloudvolumes

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func TestZones(t *testing.T) {
	nodes := map[string]nodeZone{"a": {true, "one"}, "b": {true, "two"}}
	partly := map[string]nodeZone{"a": {true, "one"}, "b": {false, "two"}}
	for _, tc := range []struct {
		name           string
		zones          map[string]nodeZone
		allowed        []string
		selected       string
		wantZones      []string
		wait, refusing bool
	}{
		{name: "the zone of the chosen node", zones: nodes, selected: "b", wantZones: []string{"two"}},
		{name: "a chosen node without the driver is waited for", zones: partly, selected: "b", wait: true},
		{name: "a chosen node that is gone is refused", zones: nodes, selected: "c", refusing: true},
		{name: "a chosen node outside of allowedTopologies is refused", zones: nodes, allowed: []string{"one"}, selected: "b", refusing: true},
		{name: "immediate binding takes any zone with nodes", zones: nodes, wantZones: []string{"one", "two"}},
		{name: "immediate binding waits for all nodes to be registered", zones: partly, wait: true},
		{name: "immediate binding in allowed zones waits for nobody", zones: partly, allowed: []string{"three"}, wantZones: []string{"three"}},
		{name: "without zones a volume is everywhere", zones: map[string]nodeZone{"a": {true, ""}}},
		{name: "a chosen node without a zone", zones: map[string]nodeZone{"a": {true, ""}}, selected: "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			order, wait, refusal := planZone(tc.zones, tc.allowed, tc.selected, "claim")
			slices.Sort(order)
			if !slices.Equal(order, tc.wantZones) || wait != tc.wait || (refusal != "") != tc.refusing {
				t.Errorf("%v, wait %v, %q", order, wait, refusal)
			}
		})
	}
}

func TestImmediateClaimsSpreadOverZones(t *testing.T) {
	zones := map[string]nodeZone{"a": {true, "one"}, "b": {true, "two"}, "c": {true, "three"}}
	first := map[string]bool{}
	for _, claim := range []string{"data-0", "data-1", "data-2", "data-3", "data-4", "data-5"} {
		order, _, _ := planZone(zones, nil, "", claim)
		again, _, _ := planZone(zones, nil, "", claim)
		if len(order) != 3 || !slices.Equal(order, again) {
			t.Fatalf("%v, then %v", order, again)
		}
		first[order[0]] = true
	}
	if len(first) < 2 {
		t.Errorf("all in %v", first)
	}
}

func TestAllowedZonesByEitherKey(t *testing.T) {
	terms := []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{
		{Key: "topology.gke.io/zone", Values: []string{"one"}},
		{Key: "topology.kubernetes.io/zone", Values: []string{"two"}},
		{Key: "topology.kubernetes.io/region", Values: []string{"no"}},
	}}}
	if got := allowedZones(terms, "topology.gke.io/zone"); !slices.Equal(got, []string{"one", "two"}) {
		t.Error(got)
	}
}

func TestReclaim(t *testing.T) {
	now := metav1.Now()
	volume := func(phase corev1.PersistentVolumePhase, policy corev1.PersistentVolumeReclaimPolicy, deleted, held bool) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{volumehelpers.AnnDynamicallyProvisioned: "ebs.csi.aws.com"}},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: policy},
			Status:     corev1.PersistentVolumeStatus{Phase: phase},
		}
		if deleted {
			pv.DeletionTimestamp = &now
		}
		if held {
			pv.Finalizers = []string{finalizer}
		}
		return pv
	}
	const del, retain = corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain
	manual := volume(corev1.VolumeReleased, del, false, true)
	manual.Annotations = nil
	for _, tc := range []struct {
		name string
		pv   *corev1.PersistentVolume
		want step
	}{
		{"a bound volume stays", volume(corev1.VolumeBound, del, false, true), step{}},
		{"a released one is erased and deleted", volume(corev1.VolumeReleased, del, false, true), step{erase: true, release: true, remove: true}},
		{"one that was not deleted at once is tried again", volume(corev1.VolumeFailed, del, false, true), step{erase: true, release: true, remove: true}},
		{"a released one that its owner keeps stays", volume(corev1.VolumeReleased, retain, false, true), step{}},
		{"one that its owner keeps goes without its data when it is deleted", volume(corev1.VolumeReleased, retain, true, true), step{release: true}},
		{"one that is deleted while it is bound stays until its claim is gone", volume(corev1.VolumeBound, del, true, true), step{}},
		{"one that was never bound is erased when it is deleted", volume(corev1.VolumeAvailable, del, true, true), step{erase: true, release: true}},
		{"one that we did not make is left alone", manual, step{}},
	} {
		if got := planVolume(tc.pv); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestClaimsThatWantMore(t *testing.T) {
	claim := func(want, have, allocated string, status corev1.ClaimResourceStatus) *corev1.PersistentVolumeClaim {
		storage := func(q string) corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(q)}
		}
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: storage(want)}}}
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storage(have)}
		if status != "" {
			c.Status.AllocatedResources = storage(allocated)
			c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: status}
		}
		return c
	}
	unbound := claim("2Gi", "1Gi", "", "")
	unbound.Status.Phase = corev1.ClaimPending
	for _, tc := range []struct {
		name  string
		claim *corev1.PersistentVolumeClaim
		want  bool
	}{
		{"one that has what it asks for", claim("1Gi", "1Gi", "", ""), false},
		{"one that asks for more", claim("2Gi", "1Gi", "", ""), true},
		{"one whose resize a crash cut off", claim("2Gi", "1Gi", "2Gi", corev1.PersistentVolumeClaimControllerResizeInProgress), true},
		{"one that waits for its node", claim("2Gi", "1Gi", "2Gi", corev1.PersistentVolumeClaimNodeResizePending), false},
		{"one that asks again meanwhile", claim("3Gi", "1Gi", "2Gi", corev1.PersistentVolumeClaimNodeResizeInProgress), true},
		{"one that is not bound", unbound, false},
	} {
		if got := wantsMore(tc.claim); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestParameters(t *testing.T) {
	class := &storagev1.StorageClass{Parameters: map[string]string{
		"type": "gp3", "fsType": "xfs", "csi.storage.k8s.io/provisioner-secret-name": "s",
	}}
	parameters, fsType := driverParameters(class, "ext4")
	if len(parameters) != 1 || parameters["type"] != "gp3" || fsType != "xfs" {
		t.Errorf("%v, %s", parameters, fsType)
	}
	class.Parameters = map[string]string{"csi.storage.k8s.io/fstype": "btrfs"}
	if _, fsType := driverParameters(class, "ext4"); fsType != "btrfs" {
		t.Error(fsType)
	}
}

func TestAccessModes(t *testing.T) {
	for want, modes := range map[csi.VolumeCapability_AccessMode_Mode][]corev1.PersistentVolumeAccessMode{
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   {corev1.ReadWriteOnce, corev1.ReadWriteMany},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  {corev1.ReadOnlyMany, corev1.ReadWriteOnce},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: {corev1.ReadWriteOncePod},
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    {corev1.ReadOnlyMany},
	} {
		if got := accessMode(modes); got != want {
			t.Errorf("%v: %v", modes, got)
		}
	}
}

func TestVolumesOfPopulators(t *testing.T) {
	for name, tt := range map[string]struct {
		from *corev1.TypedObjectReference
		want bool
	}{
		"empty":    {nil, false},
		"claim":    {&corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "x"}, false},
		"snapshot": {&corev1.TypedObjectReference{APIGroup: ptr.To("snapshot.storage.k8s.io"), Kind: "VolumeSnapshot", Name: "x"}, false},
		"other":    {&corev1.TypedObjectReference{APIGroup: ptr.To("hello.example.com"), Kind: "Hello", Name: "x"}, true},
		"its kind": {&corev1.TypedObjectReference{APIGroup: ptr.To("hello.example.com"), Kind: "VolumeSnapshot", Name: "x"}, true},
	} {
		claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{DataSourceRef: tt.from}}
		if have := populated(claim); have != tt.want {
			t.Errorf("%s: %t", name, have)
		}
	}
}
