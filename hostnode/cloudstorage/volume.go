package cloudstorage

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// defaultBytes is the size of a volume for which nobody says one.
	defaultBytes = 1 << 30
	// roundTo is what sizes are multiples of, for loop devices.
	roundTo = 1 << 20
	// shareName is how an Azure share's name reaches its in-tree volume, and
	// initialPath a vSphere disk's path.
	shareName   = "sharename"
	initialPath = "initialvolumefilepath"
)

// CreateVolume creates a volume, empty or from a snapshot or another volume.
func (d *Driver) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := required("name", req.GetName()); err != nil {
		return nil, err
	}
	shared := d.spec.Shared && (d.spec.AskToShare == "" || isTrue(req.GetParameters(), d.spec.AskToShare))
	block, err := d.checkCapabilities(req.GetVolumeCapabilities(), shared)
	if err != nil {
		return nil, err
	}
	if err := d.checkAttributes(req.GetMutableParameters()); err != nil {
		return nil, err
	}
	want, most, err := sizes(req.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	source, from, err := d.source(req.GetVolumeContentSource())
	if err != nil {
		return nil, err
	}
	if source != nil {
		if block != source.Block {
			return nil, status.Error(codes.InvalidArgument, "the source has another volume mode")
		}
		if req.GetCapacityRange() == nil {
			want = source.Bytes
		}
		if want < source.Bytes {
			return nil, status.Errorf(codes.OutOfRange, "%d bytes are less than the source's %d", want, source.Bytes)
		}
	}
	zone := d.chooseZone(req.GetAccessibilityRequirements())
	id := req.GetName()
	if !d.spec.NamedByUser {
		id = volumeID(d.spec.Name, id, zone)
	}
	r := d.fresh(id, req.GetName(), want, block)
	r.Shared, r.Zone = shared, zone
	mode := d.rootMode()
	if source != nil {
		r.Source, r.Image = source.ID, source.Image
	}

	have, err := d.store.find(volumes, r.ID)
	if err == nil && have == nil {
		if err := pause(ctx, d.cloud.CreateDelay); err != nil {
			return nil, err
		}
		have, err = d.store.create(volumes, r, from, mode)
	}
	if err != nil {
		return nil, internal("create volume "+r.ID, err)
	}
	if have.Bytes < want || most > 0 && have.Bytes > most || have.Block != block || have.Source != r.Source {
		return nil, status.Errorf(codes.AlreadyExists, "volume %s exists otherwise: %d bytes, block %v, source %q", have.ID, have.Bytes, have.Block, have.Source)
	}
	return &csi.CreateVolumeResponse{Volume: d.describe(have, req.GetParameters(), req.GetVolumeContentSource())}, nil
}

func (d *Driver) describe(r *record, parameters map[string]string, source *csi.VolumeContentSource) *csi.Volume {
	v := &csi.Volume{VolumeId: r.ID, CapacityBytes: r.Bytes, ContentSource: source, VolumeContext: map[string]string{}}
	for key, value := range parameters {
		v.VolumeContext[key] = value
	}
	switch d.spec.Name {
	case "file.csi.azure.com":
		v.VolumeContext[shareName] = r.Name
	case "csi.vsphere.vmware.com":
		v.VolumeContext[initialPath] = r.ID
	}
	if d.spec.ZoneKey != "" && r.Zone != "" {
		v.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{d.spec.ZoneKey: r.Zone}}}
	}
	return v
}

// chooseZone is the first zone that the request would like.
func (d *Driver) chooseZone(req *csi.TopologyRequirement) string {
	if d.spec.ZoneKey == "" {
		return ""
	}
	for _, list := range [][]*csi.Topology{req.GetPreferred(), req.GetRequisite()} {
		for _, t := range list {
			if zone := t.GetSegments()[d.spec.ZoneKey]; zone != "" {
				return zone
			}
		}
	}
	return ""
}

// source finds what a volume begins as, and its directory.
func (d *Driver) source(from *csi.VolumeContentSource) (*record, string, error) {
	kind, id := "", ""
	switch {
	case from == nil:
		return nil, "", nil
	case from.GetSnapshot() != nil:
		kind, id = snapshots, from.GetSnapshot().GetSnapshotId()
	case from.GetVolume() != nil:
		kind, id = volumes, from.GetVolume().GetVolumeId()
	default:
		return nil, "", status.Error(codes.InvalidArgument, "volume_content_source is neither a snapshot nor a volume")
	}
	r, err := d.store.find(kind, id)
	if err != nil {
		return nil, "", internal("source "+id, err)
	}
	if r == nil {
		return nil, "", status.Errorf(codes.NotFound, "source %s: not found", id)
	}
	return r, d.store.path(kind, id), nil
}

// sizes are what a volume must have, in whole steps, and may have at most.
func sizes(r *csi.CapacityRange) (want, most int64, err error) {
	want, most = r.GetRequiredBytes(), r.GetLimitBytes()
	if want < 0 || most < 0 || most > 0 && want > most {
		return 0, 0, status.Errorf(codes.OutOfRange, "between %d and %d bytes there is no size", want, most)
	}
	if want == 0 {
		want = defaultBytes
		if most > 0 {
			want = min(want, most)
		}
	}
	if rounded := (want + roundTo - 1) / roundTo * roundTo; most == 0 || rounded <= most {
		want = rounded
	}
	return want, most, nil
}

func isTrue(parameters map[string]string, name string) bool {
	// Portworx has both names for it.
	return parameters[name] == "true" || parameters[name+"v4"] == "true"
}

// checkCapabilities refuses what the driver's cloud does not have, and says
// whether the volume is a device.
func (d *Driver) checkCapabilities(all []*csi.VolumeCapability, shared bool) (block bool, err error) {
	if len(all) == 0 {
		return false, status.Error(codes.InvalidArgument, "volume_capabilities is empty")
	}
	for i, c := range all {
		asks := c.GetBlock() != nil
		if !asks && c.GetMount() == nil {
			return false, status.Error(codes.InvalidArgument, "volume_capability is neither block nor mount")
		}
		if i > 0 && asks != block {
			return false, status.Error(codes.InvalidArgument, "a volume is either a device or a file system")
		}
		block = asks
		if reason := d.refuses(c, shared); reason != "" {
			return false, status.Error(codes.InvalidArgument, reason)
		}
	}
	return block, nil
}

// refuses says why the driver cannot do what c asks.
func (d *Driver) refuses(c *csi.VolumeCapability, shared bool) string {
	if c.GetBlock() != nil && d.spec.Shared {
		return "volumeMode Block is not supported by " + d.spec.Name
	}
	switch mode := c.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return "access_mode is unknown"
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		if !shared {
			return "access mode " + mode.String() + " is not supported by " + d.spec.Name + ": its volumes are for one node at a time"
		}
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		if !shared && !d.spec.ReadOnlyMany {
			return "access mode " + mode.String() + " is not supported by " + d.spec.Name
		}
	}
	return ""
}

// DeleteVolume deletes a volume that nobody has attached.
func (d *Driver) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := req.GetVolumeId()
	if err := required("volume_id", id); err != nil {
		return nil, err
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	r, err := d.store.find(volumes, id)
	if err != nil {
		return nil, internal("volume "+id, err)
	}
	if r != nil && len(r.Attached) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %s", id, r.Attached[0].Node)
	}
	// Of a volume whose directory is gone there may be the device, and that it
	// is known.
	if r == nil || r.onDisk() {
		if err := d.devices().Detach(d.disk(id)); err != nil {
			return nil, internal("detach the device of volume "+id, err)
		}
	}
	return &csi.DeleteVolumeResponse{}, internal("delete volume "+id, d.store.erase(volumes, id))
}

// ValidateVolumeCapabilities confirms what a volume can do.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume_capabilities is empty")
	}
	r, err := d.find(req.GetVolumeId(), nil)
	if err != nil {
		return nil, err
	}
	for _, c := range req.GetVolumeCapabilities() {
		reason := d.refuses(c, r.Shared)
		if (c.GetBlock() != nil) != r.Block {
			reason = "the volume has the other volume mode"
		}
		if reason != "" {
			return &csi.ValidateVolumeCapabilitiesResponse{Message: reason}, nil
		}
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: req.GetVolumeContext(), VolumeCapabilities: req.GetVolumeCapabilities(), Parameters: req.GetParameters(),
	}}, nil
}
