package supervise

import (
	"path/filepath"
	"time"

	cluster "github.com/skiff-k8s/skiff/apis/cluster/v1alpha1"
	machine "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

// planCloud is the cloud of the config file for the machines. A record of an
// older skiff has no cloud: it gets the default one.
func planCloud(c *cluster.Cluster) (machine.Cloud, error) {
	set := c.Cloud
	cluster.SetCloudDefaults(&set)
	cloud := machine.Cloud{
		Drivers: *set.Drivers, Images: set.Filesystems == cluster.FilesystemImages,
		CreateMissing: set.MissingVolumes == cluster.CreateMissingVolumes, AttachLimit: set.AttachLimit,
		RemovedVolumes: c.RemovedVolumes == cluster.EmulateRemovedVolumes,
	}
	for _, d := range []struct {
		field, text string
		into        *time.Duration
	}{
		{"cloud.createDelay", set.CreateDelay, &cloud.CreateDelay},
		{"cloud.attachDelay", set.AttachDelay, &cloud.AttachDelay},
	} {
		delay, err := time.ParseDuration(d.text)
		if err != nil {
			return machine.Cloud{}, &Refusal{Field: d.field, Err: err, Help: "a duration, for example 2s"}
		}
		*d.into = delay
	}
	return cloud, nil
}

// removeDevices gives the host back the loop devices of the cluster's volumes,
// which outlive the machines that used them.
func (p Paths) removeDevices(name string) error {
	for _, dir := range []string{p.Cluster(name), p.deleted(name)} {
		if err := loopdevice.Owner(filepath.Join(dir, "volumes/cloud")).DetachAll("*/volumes/*/disk"); err != nil {
			return err
		}
	}
	return nil
}
