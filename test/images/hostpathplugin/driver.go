package main

import (
	"context"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
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
	d := driver.NewCSIDriver(&driver.CSIDriverServers{Controller: s, Identity: s, Node: unattached{s}})
	if err := d.Start(l, nil); err != nil {
		return err
	}
	<-ctx.Done()
	d.Stop()
	return nil
}

// unattached mounts a volume without an attachment too. The mock refuses that
// when it attaches; but a CSIDriver object may begin to say, as in a spec of
// upstream's, that a driver that can attach is not to.
type unattached struct{ csi.NodeServer }

func (u unattached) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	req = proto.CloneOf(req) // the log shows what the kubelet sent
	req.PublishContext = withDevice(req.PublishContext)
	return u.NodeServer.NodeStageVolume(ctx, req)
}

func (u unattached) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	req = proto.CloneOf(req)
	req.PublishContext = withDevice(req.PublishContext)
	return u.NodeServer.NodePublishVolume(ctx, req)
}

// withDevice adds what an attachment would have told.
func withDevice(published map[string]string) map[string]string {
	all := map[string]string{"device": "none"}
	maps.Copy(all, published)
	return all
}
