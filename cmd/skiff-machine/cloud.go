package main

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/kubernetes/pkg/volume"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
	"github.com/skiff-k8s/skiff/hostnode/removedvolumes"
)

// cloudControllers are the emulated cloud's controller services. The
// controllers know them by CSI's interface only.
func cloudControllers(cloud machinev1alpha1.Cloud) (map[string]csi.ControllerServer, error) {
	drivers := map[string]csi.ControllerServer{}
	for _, name := range cloud.Drivers {
		driver, err := cloudstorage.New(cloudstorage.Config{Cloud: cloud}, name)
		if err != nil {
			return nil, err
		}
		drivers[name] = driver
	}
	return drivers, nil
}

// removedVolumes makes the plugins for the volumes that upstream has removed.
func removedVolumes(cloud machinev1alpha1.Cloud) func() ([]volume.VolumePlugin, error) {
	return func() ([]volume.VolumePlugin, error) {
		return removedvolumes.Plugins(removedvolumes.Config{Cloud: cloud})
	}
}
