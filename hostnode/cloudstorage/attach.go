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

	"github.com/skiff-k8s/skiff/hostnode/loopdevice"
)

// ControllerPublishVolume attaches a volume to a node.
func (d *Driver) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	id, node := req.GetVolumeId(), req.GetNodeId()
	if err := required("volume_id", id, "node_id", node); err != nil {
		return nil, err
	}
	if req.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability is empty")
	}
	target, err := d.store.node(node)
	if err != nil {
		return nil, internal("node "+node, err)
	}
	if target == nil {
		return nil, status.Errorf(codes.NotFound, "node %s: not found", node)
	}
	done, err := d.attach(id, target, req, false)
	if err != nil || done {
		return &csi.ControllerPublishVolumeResponse{}, err
	}
	// Refused at once, attached after a while: looked at again by then.
	if err := pause(ctx, d.cloud.AttachDelay); err != nil {
		return nil, err
	}
	_, err = d.attach(id, target, req, true)
	return &csi.ControllerPublishVolumeResponse{}, err
}

// attach checks that the node may have the volume and, if commit, gives it.
func (d *Driver) attach(id string, node *nodeRecord, req *csi.ControllerPublishVolumeRequest, commit bool) (done bool, err error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	r, err := d.find(id, req.GetVolumeCapability())
	if err != nil {
		return false, err
	}
	others, err := d.attachedTo(node.ID)
	if err != nil {
		return false, internal("volumes of node "+node.ID, err)
	}
	want := attachment{Node: node.ID, ReadOnly: req.GetReadonly() ||
		req.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY}
	done, err = d.admit(r, want, node, others)
	if err != nil || done || !commit {
		return done, err
	}
	r.Attached = append(r.Attached, want)
	// Those of an older skiff are not known yet.
	return true, internal("attach volume "+id, errors.Join(d.store.know(id), d.store.write(volumes, r)))
}

// admit decides whether a node may have a volume; done says that it has.
func (d *Driver) admit(r *record, want attachment, node *nodeRecord, others int) (done bool, err error) {
	for _, have := range r.Attached {
		switch {
		case have == want:
			return true, nil
		case have.Node == want.Node:
			return false, status.Errorf(codes.AlreadyExists, "volume %s is attached to %s otherwise", r.ID, have.Node)
		case !r.Shared && (!have.ReadOnly || !want.ReadOnly):
			return false, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %s", r.ID, have.Node)
		}
	}
	if r.Zone != "" && node.Zone != "" && r.Zone != node.Zone {
		return false, status.Errorf(codes.FailedPrecondition, "volume %s is in zone %s, node %s in %s", r.ID, r.Zone, node.ID, node.Zone)
	}
	if node.Limit > 0 && others >= node.Limit {
		return false, status.Errorf(codes.ResourceExhausted, "node %s has %d volumes attached, its limit", node.ID, others)
	}
	return false, nil
}

// attachedTo counts the volumes of a node.
func (d *Driver) attachedTo(node string) (int, error) {
	all, err := d.store.list(volumes)
	count := 0
	for _, r := range all {
		if r.attachedTo(node) {
			count++
		}
	}
	return count, err
}

// ControllerUnpublishVolume detaches a volume from a node, or from all.
func (d *Driver) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	id, node := req.GetVolumeId(), req.GetNodeId()
	if err := required("volume_id", id); err != nil {
		return nil, err
	}
	r, err := d.store.find(volumes, id)
	if err != nil {
		return nil, internal("volume "+id, err)
	}
	if r == nil {
		// Its directory may be gone, and its device not.
		return &csi.ControllerUnpublishVolumeResponse{}, internal("detach the device of volume "+id, d.devices().Detach(d.disk(id)))
	}
	if node != "" && !r.attachedTo(node) {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if err := pause(ctx, d.cloud.AttachDelay); err != nil {
		return nil, err
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if r, err = d.store.find(volumes, id); err != nil || r == nil {
		return &csi.ControllerUnpublishVolumeResponse{}, internal("volume "+id, err)
	}
	r.Attached = slices.DeleteFunc(r.Attached, func(a attachment) bool { return node == "" || a.Node == node })
	if r.Block && len(r.Attached) == 0 {
		if err := d.devices().Detach(d.disk(id)); err != nil {
			return nil, internal("detach the device of volume "+id, err)
		}
	}
	return &csi.ControllerUnpublishVolumeResponse{}, internal("detach volume "+id, d.store.write(volumes, r))
}

// ControllerExpandVolume makes a volume larger. What is smaller stays.
func (d *Driver) ControllerExpandVolume(_ context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	id := req.GetVolumeId()
	if err := required("volume_id", id); err != nil {
		return nil, err
	}
	if req.GetCapacityRange() == nil {
		return nil, status.Error(codes.InvalidArgument, "capacity_range is empty")
	}
	want, most, err := sizes(req.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	r, err := d.find(id, nil)
	if err != nil {
		return nil, err
	}
	if most > 0 && r.Bytes > most {
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes, more than %d", id, r.Bytes, most)
	}
	if want > r.Bytes {
		if r.onDisk() {
			if err := os.Truncate(d.disk(id), want); err != nil {
				return nil, internal("expand volume "+id, err)
			}
		}
		r.Bytes = want
		if err := d.store.write(volumes, r); err != nil {
			return nil, internal("expand volume "+id, err)
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: r.Bytes, NodeExpansionRequired: !d.spec.Shared}, nil
}

// disk is the file of a volume that is one.
func (d *Driver) disk(id string) string {
	return filepath.Join(d.store.path(volumes, id), diskFile)
}

// devices are those of the cluster's volumes.
func (d *Driver) devices() loopdevice.Owner { return loopdevice.Owner(filepath.Dir(d.store.dir)) }
