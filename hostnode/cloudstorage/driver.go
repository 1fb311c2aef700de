package cloudstorage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	machinev1alpha1 "github.com/skiff-k8s/skiff/apis/machine/v1alpha1"
)

// Config of the cloud's storage.
type Config struct {
	machinev1alpha1.Cloud
	// Root is the directory with all volumes. Default: the machine's.
	Root string
}

// Driver is the CSI services of one driver.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer

	spec  machinev1alpha1.CloudDriver
	cloud machinev1alpha1.Cloud
	store store
}

// New makes the driver of that name. It touches nothing.
func New(cfg Config, name string) (*Driver, error) {
	if cfg.Root == "" {
		cfg.Root = machinev1alpha1.CloudDir
	}
	specs := machinev1alpha1.CloudDrivers()
	specs = slices.DeleteFunc(specs, func(spec machinev1alpha1.CloudDriver) bool { return !slices.Contains(cfg.Drivers, spec.Name) })
	if cfg.RemovedVolumes {
		specs = append(specs, machinev1alpha1.RemovedVolumes()...)
	}
	for _, spec := range specs {
		if spec.Name == name {
			return &Driver{spec: spec, cloud: cfg.Cloud, store: store{dir: filepath.Join(cfg.Root, name), driver: name}}, nil
		}
	}
	return nil, fmt.Errorf("storage driver %q: not one of %v", name, cfg.Drivers)
}

// GetPluginInfo is the driver's name.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.spec.Name, VendorVersion: "skiff"}, nil
}

// GetPluginCapabilities says that there is a controller service, and zones.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	services := []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_CONTROLLER_SERVICE}
	if d.spec.ZoneKey != "" {
		services = append(services, csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	resp := &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
			Type: csi.PluginCapability_VolumeExpansion_ONLINE,
		}},
	}}}
	for _, s := range services {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: s}},
		})
	}
	return resp, nil
}

// Probe answers that the driver works.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// attachLimit is the most volumes that a node has attached; zero: no limit.
func (d *Driver) attachLimit() int {
	if d.spec.Shared || d.spec.NamedByUser {
		return 0 // nobody counts, or nobody is told
	}
	if d.cloud.AttachLimit > 0 {
		return d.cloud.AttachLimit
	}
	return d.spec.AttachLimit
}

// fresh makes the record of a volume that begins now.
func (d *Driver) fresh(id, name string, bytes int64, block bool) *record {
	return &record{
		ID: id, Name: name, Bytes: bytes, Block: block, Image: d.cloud.Images && !block && !d.spec.Shared,
		Shared: d.spec.Shared && d.spec.AskToShare == "", Created: time.Now(),
	}
}

// rootMode is that of a new file system, or of a share.
func (d *Driver) rootMode() os.FileMode {
	if d.spec.Shared && d.spec.AskToShare == "" {
		return 0o777
	}
	return 0o755
}

// find reads a volume that must exist. One that nobody has created is created
// when the cloud says so; one that was, and whose directory is gone, is not.
func (d *Driver) find(id string, capability *csi.VolumeCapability) (*record, error) {
	r, err := d.store.find(volumes, id)
	if err != nil || r != nil {
		return r, internal("volume "+id, err)
	}
	if d.store.known(id) {
		return nil, status.Errorf(codes.NotFound, "volume %s: %v", id, &Lost{Path: d.store.path(volumes, id)})
	}
	if !d.cloud.CreateMissing || capability == nil {
		return nil, status.Errorf(codes.NotFound, "volume %s: not found", id)
	}
	r = d.fresh(id, "", defaultBytes, capability.GetBlock() != nil)
	r.Shared = r.Shared || d.spec.Shared
	r, err = d.store.create(volumes, r, "", d.rootMode())
	return r, internal("create volume "+id, err)
}

// internal is an error that is the host's.
func internal(operation string, err error) error {
	if err == nil {
		return nil
	}
	return status.Errorf(codes.Internal, "%s: %v", operation, err)
}

// pause takes the time that a cloud would.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// required refuses a request in which a field is empty: name, value, name, value…
func required(fields ...string) error {
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i+1] == "" {
			return status.Errorf(codes.InvalidArgument, "%s is empty", fields[i])
		}
	}
	return nil
}
