package cloudstorage

import (
	"context"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ControllerGetCapabilities says what the controller service can do.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	can := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	if !d.spec.Shared {
		can = append(can, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
			csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
			csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES)
	}
	if d.spec.Attributes != nil {
		can = append(can, csi.ControllerServiceCapability_RPC_MODIFY_VOLUME)
	}
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range can {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// page cuts the part of a list that a request asks for. A token is the number
// of entries that came before.
func page[T any](all []T, token string, most int32) (part []T, next string, err error) {
	start := 0
	if token != "" {
		start, err = strconv.Atoi(token)
		if err != nil || start < 0 || start > len(all) {
			return nil, "", status.Errorf(codes.Aborted, "starting_token %q: not one of this list", token)
		}
	}
	end := len(all)
	if most > 0 && start+int(most) < end {
		end = start + int(most)
		next = strconv.Itoa(end)
	}
	return all[start:end], next, nil
}

// ListVolumes lists volumes and the nodes that have them.
func (d *Driver) ListVolumes(_ context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	all, err := d.store.list(volumes)
	if err != nil {
		return nil, internal("list volumes", err)
	}
	part, next, err := page(all, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, r := range part {
		entry := &csi.ListVolumesResponse_Entry{Volume: d.describe(r, nil, nil), Status: &csi.ListVolumesResponse_VolumeStatus{}}
		for _, a := range r.Attached {
			entry.Status.PublishedNodeIds = append(entry.Status.PublishedNodeIds, a.Node)
		}
		resp.Entries = append(resp.Entries, entry)
	}
	return resp, nil
}

// CreateSnapshot copies a volume as it is now.
func (d *Driver) CreateSnapshot(_ context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	source := req.GetSourceVolumeId()
	if err := required("name", req.GetName(), "source_volume_id", source); err != nil {
		return nil, err
	}
	v, err := d.find(source, nil)
	if err != nil {
		return nil, err
	}
	id := snapshotID(d.spec.Name, req.GetName())
	have, err := d.store.find(snapshots, id)
	if err == nil && have == nil {
		r := &record{ID: id, Name: req.GetName(), Bytes: v.Bytes, Block: v.Block, Image: v.Image, Source: v.ID, Created: time.Now()}
		have, err = d.store.create(snapshots, r, d.store.path(volumes, v.ID), 0)
	}
	if err != nil {
		return nil, internal("snapshot volume "+source, err)
	}
	if have.Source != v.ID {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %s exists of volume %s", req.GetName(), have.Source)
	}
	return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(have)}, nil
}

func describeSnapshot(r *record) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId: r.ID, SourceVolumeId: r.Source, SizeBytes: r.Bytes,
		CreationTime: timestamppb.New(r.Created), ReadyToUse: true,
	}
}

// DeleteSnapshot deletes a snapshot.
func (d *Driver) DeleteSnapshot(_ context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id := req.GetSnapshotId()
	if err := required("snapshot_id", id); err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, internal("delete snapshot "+id, d.store.erase(snapshots, id))
}

// ListSnapshots lists snapshots, all, of one volume, or one.
func (d *Driver) ListSnapshots(_ context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	all, err := d.store.list(snapshots)
	if err != nil {
		return nil, internal("list snapshots", err)
	}
	var wanted []*record
	for _, r := range all {
		if (req.GetSnapshotId() == "" || r.ID == req.GetSnapshotId()) && (req.GetSourceVolumeId() == "" || r.Source == req.GetSourceVolumeId()) {
			wanted = append(wanted, r)
		}
	}
	part, next, err := page(wanted, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListSnapshotsResponse{NextToken: next}
	for _, r := range part {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(r)})
	}
	return resp, nil
}
