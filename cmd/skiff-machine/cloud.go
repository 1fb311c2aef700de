package main

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
	"github.com/skiff-k8s/skiff/hostnode/cloudstorage"
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
