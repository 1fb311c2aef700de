package main

import (
	"context"
	"maps"
	"os"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	d := driver.NewCSIDriver(&driver.CSIDriverServers{Controller: s, Identity: s, Node: &node{NodeServer: s}})
	if err := d.Start(l, nil); err != nil {
		return err
	}
	<-ctx.Done()
	d.Stop()
	return nil
}

// node is the mock's, with two differences.
//
// It mounts a volume without an attachment too. The mock refuses that when it
// attaches; but a CSIDriver object may begin to say, as in a spec of upstream's,
// that a driver that can attach is not to.
//
// It keeps the inline volumes of Pods itself: the mock of this version takes one
// that no controller made for a nil pointer.
type node struct {
	csi.NodeServer
	inline sync.Map // volume id → nothing
}

func (n *node) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	req = proto.CloneOf(req) // the log shows what the kubelet sent
	req.PublishContext = withDevice(req.PublishContext)
	return n.NodeServer.NodeStageVolume(ctx, req)
}

func (n *node) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if req.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		if err := os.MkdirAll(req.TargetPath, 0o755); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		n.inline.Store(req.VolumeId, nil)
		return &csi.NodePublishVolumeResponse{}, nil
	}
	req = proto.CloneOf(req)
	req.PublishContext = withDevice(req.PublishContext)
	return n.NodeServer.NodePublishVolume(ctx, req)
}

func (n *node) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if _, inline := n.inline.Load(req.VolumeId); !inline {
		return n.NodeServer.NodeUnpublishVolume(ctx, req)
	}
	if err := os.RemoveAll(req.TargetPath); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	n.inline.Delete(req.VolumeId)
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// withDevice adds what an attachment would have told.
func withDevice(published map[string]string) map[string]string {
	all := map[string]string{"device": "none"}
	maps.Copy(all, published)
	return all
}
