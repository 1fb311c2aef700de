package supervise

import (
	"slices"
	"testing"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// The config file and the machines have lists of their own.
func TestEveryCloudDriverOfTheConfigIsKnown(t *testing.T) {
	var known []string
	for _, d := range machine.CloudDrivers() {
		known = append(known, d.Name)
	}
	cloud, err := planCloud(&cluster.Cluster{})
	if err != nil || !slices.Equal(cloud.Drivers, known) {
		t.Errorf("config: %v, machines: %v, %v", cloud.Drivers, known, err)
	}
	none, err := planCloud(&cluster.Cluster{Cloud: cluster.Cloud{Drivers: &[]string{}}})
	if err != nil || len(none.Drivers) > 0 {
		t.Errorf("an empty list: %v, %v", none.Drivers, err)
	}
}

func TestRemovedVolumesNeedNoCloud(t *testing.T) {
	for set, want := range map[cluster.RemovedVolumes]bool{"": false, cluster.FailRemovedVolumes: false, cluster.EmulateRemovedVolumes: true} {
		got, err := planCloud(&cluster.Cluster{Cloud: cluster.Cloud{Drivers: &[]string{}}, RemovedVolumes: set})
		if err != nil || got.RemovedVolumes != want {
			t.Errorf("removedVolumes %q: %v, %v", set, got.RemovedVolumes, err)
		}
	}
}
