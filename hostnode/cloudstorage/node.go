package cloudstorage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Node is the node service of a driver on one node.
type Node struct {
	csi.UnimplementedNodeServer
	driver *Driver
	name   string
	zone   func() (string, error)
}

// Node makes the driver's service for the named node; zone is asked when the
// node is registered.
func (d *Driver) Node(name string, zone func() (string, error)) *Node {
	return &Node{driver: d, name: name, zone: zone}
}

// id is the node's in this driver, and its zone.
func (n *Node) id() (id, zone string, err error) {
	zone, err = n.zone()
	return nodeID(n.driver.spec.Name, n.name, zone), zone, err
}

// NodeGetInfo registers the node in the cloud.
func (n *Node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	d := n.driver
	id, zone, err := n.id()
	if err != nil {
		return nil, internal("zone of node "+n.name, err)
	}
	if d.spec.ZoneKey == "" {
		zone = ""
	}
	if err := d.store.writeNode(nodeRecord{ID: id, Zone: zone, Limit: d.attachLimit()}); err != nil {
		return nil, internal("register node "+n.name, err)
	}
	resp := &csi.NodeGetInfoResponse{NodeId: id, MaxVolumesPerNode: int64(d.attachLimit())}
	if zone != "" {
		resp.AccessibleTopology = &csi.Topology{Segments: map[string]string{d.spec.ZoneKey: zone}}
	}
	return resp, nil
}

// NodeGetCapabilities says what the node service can do.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// usable finds a volume that this node may mount as c says.
func (n *Node) usable(id string, c *csi.VolumeCapability) (*record, error) {
	d := n.driver
	if c == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability is empty")
	}
	asked := c
	if !d.spec.Shared {
		asked = nil // it was created when it was attached, or is not attached
	}
	r, err := d.find(id, asked)
	if err != nil {
		return nil, err
	}
	if (c.GetBlock() != nil) != r.Block {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s has the other volume mode", id)
	}
	if d.spec.Shared {
		return r, nil
	}
	attachedAs := slices.IndexFunc(r.Attached, func(a attachment) bool { return n.owns(a.Node) })
	if attachedAs < 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not attached to this node", id)
	}
	return r, nil
}

// owns tells whether a driver's node id is this node, in whatever zone it was
// when the volume was attached.
func (n *Node) owns(id string) bool {
	return canonical(n.driver.spec.Name, id) == n.name || id == n.name
}

// NodeStageVolume mounts a volume for the pods of this node.
func (n *Node) NodeStageVolume(_ context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := required("volume_id", id, "staging_target_path", target); err != nil {
		return nil, err
	}
	r, err := n.usable(id, req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, n.stage(r, id, target, req.GetVolumeCapability().GetMount())
}

// stage mounts a volume once for this node, or gives it its device. What was
// mounted of a volume that was replaced since goes.
func (n *Node) stage(r *record, id, target string, fs *csi.VolumeCapability_MountVolume) error {
	d := n.driver
	if r.Block {
		device, err := d.devices().Attach(d.disk(id), false)
		if err != nil {
			return internal("device of volume "+id, err)
		}
		return device.Close()
	}
	if err := n.renew(id, target); err != nil {
		return err
	}
	if r.Image {
		fsType := fs.GetFsType()
		if fsType == "" {
			fsType = "ext4"
		}
		return internal("stage volume "+id, mountImage(d.devices(), d.disk(id), target, fsType, fs.GetMountFlags()))
	}
	return internal("stage volume "+id, bind(filepath.Join(d.store.path(volumes, id), dataDir), target, fs.GetMountFlags()))
}

// NodeUnstageVolume takes the mount away.
func (n *Node) NodeUnstageVolume(_ context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := required("volume_id", id, "staging_target_path", target); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, internal("unstage volume "+id, unmount(target))
}

// NodePublishVolume shows a staged volume to a pod.
func (n *Node) NodePublishVolume(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d, id, staged, target := n.driver, req.GetVolumeId(), req.GetStagingTargetPath(), req.GetTargetPath()
	if err := required("volume_id", id, "target_path", target); err != nil {
		return nil, err
	}
	r, err := n.usable(id, req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	if staged == "" {
		return nil, status.Error(codes.FailedPrecondition, "staging_target_path is empty")
	}
	if err := n.renew(id, target); err != nil {
		return nil, err
	}
	if r.Block {
		device, err := d.devices().Attach(d.disk(id), false)
		if err != nil {
			return nil, internal("device of volume "+id, err)
		}
		defer device.Close()
		return &csi.NodePublishVolumeResponse{}, internal("publish volume "+id, bind(device.Name(), target, nil))
	}
	if is, err := mounted(staged); err != nil || !is {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged at %s", id, staged)
	}
	if err := n.stage(r, id, staged, req.GetVolumeCapability().GetMount()); err != nil {
		return nil, err
	}
	if req.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		if other, err := elsewhere(staged, target); err != nil || other {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is for one pod, and another has it", id)
		}
	}
	options := req.GetVolumeCapability().GetMount().GetMountFlags()
	if req.GetReadonly() {
		options = append(slices.Clone(options), "ro")
	}
	return &csi.NodePublishVolumeResponse{}, internal("publish volume "+id, bind(staged, target, options))
}

// NodeUnpublishVolume takes a volume away from a pod.
func (n *Node) NodeUnpublishVolume(_ context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	if err := required("volume_id", id, "target_path", target); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, internal("unpublish volume "+id, remove(target))
}

// NodeExpandVolume lets the node see a volume's new size.
func (n *Node) NodeExpandVolume(_ context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d, id, path := n.driver, req.GetVolumeId(), req.GetVolumePath()
	if err := required("volume_id", id, "volume_path", path); err != nil {
		return nil, err
	}
	r, err := n.at(id, path)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Block:
		_, err = growDevice(d.disk(id))
	case r.Image:
		err = growImage(d.disk(id), path)
	}
	if errors.Is(err, errNotOnline) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s: %v", id, err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.Bytes}, internal("expand volume "+id, err)
}

// at finds a volume that is at a path.
func (n *Node) at(id, path string) (*record, error) {
	r, err := n.driver.find(id, nil)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at %s", id, path)
	}
	return r, nil
}

// NodeGetVolumeStats says how full a volume is.
func (n *Node) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id, path := req.GetVolumeId(), req.GetVolumePath()
	if err := required("volume_id", id, "volume_path", path); err != nil {
		return nil, err
	}
	r, err := n.at(id, path)
	if err != nil {
		return nil, err
	}
	if r.Block {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: r.Bytes}}}, nil
	}
	var u usage
	if r.Image {
		u, err = imageUsage(path)
	} else {
		u, err = directoryUsage(ctx, path, r.Bytes)
	}
	if err != nil {
		return nil, internal("usage of volume "+id, err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: u.bytes, Used: u.used, Available: u.free},
		{Unit: csi.VolumeUsage_INODES, Total: u.inodes, Used: u.iused, Available: u.ifrees},
	}}, nil
}
