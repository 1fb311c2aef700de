package main

import (
	"context"

	"k8s.io/kubernetes/test/e2e/storage/drivers/csi-test/driver"
	mock "k8s.io/kubernetes/test/e2e/storage/drivers/csi-test/mock/service"
)

// drive is upstream's mock driver at endpoint until ctx ends. It logs each call
// as the suite reads them from a container's log.
func drive(ctx context.Context, endpoint string, cfg mock.Config) error {
	l, err := listen(endpoint)
	if err != nil {
		return err
	}
	s := mock.New(cfg)
	d := driver.NewCSIDriver(&driver.CSIDriverServers{Controller: s, Identity: s, Node: s})
	if err := d.Start(l, nil); err != nil {
		return err
	}
	<-ctx.Done()
	d.Stop()
	return nil
}
